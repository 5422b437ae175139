//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/spec"
)

// TestMain is also the VM process of the tests: Start executes this binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "vm" {
		os.Exit(child(os.Args[2]))
	}
	os.Exit(m.Run())
}

// child does what the test of this name wants of a VM process.
func child(name string) int {
	in, err := Inherit()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	s, log := in.Sync, in.Log
	b, err := s.Bootstrap()
	if err != nil {
		return 4
	}
	abandoned := make(chan struct{})
	start := make(chan struct{}, 1)
	go func() {
		s.Abandoned(func() { start <- struct{}{} })
		close(abandoned)
	}()
	switch name {
	case "fails":
		s.Failed(errors.New("no luck"), 127)
		return 5
	case "nolog":
		if in.Log != nil {
			return 9
		}
	case "dies":
		return 6
	case "abandoned":
		<-abandoned
		return 7
	case "inspect":
		fmt.Fprintln(log, "session", unixGetsid() == os.Getpid())
		for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
			link, _ := os.Readlink("/proc/self/ns/" + ns)
			fmt.Fprintln(log, ns, link)
		}
		fmt.Fprintln(log, "environment of hooks", len(os.Environ()))
		env, _ := os.ReadFile("/proc/self/environ")
		fmt.Fprintln(log, "env", strings.ReplaceAll(strings.TrimRight(string(env), "\x00"), "\x00", " "))
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			link, _ := os.Readlink("/proc/self/fd/" + e.Name())
			fmt.Fprintln(log, "fd", link)
		}
		cgroup, _ := os.ReadFile("/proc/self/cgroup")
		priority, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
		fmt.Fprintln(log, "ioprio", priority, int(errno))
		fmt.Fprintln(log, "cgroups", strings.ReplaceAll(string(cgroup), "\n", " "))
		fmt.Fprintln(log, "agent", in.Agent.Addr())
	case "network":
		host, err := InNetwork(b.HostNetworks)
		fmt.Fprintln(log, "host", host, err)
	case "confine":
		err := cage.Limit(1<<30, b.Plan.Spec.Process.OOMScoreAdj)
		if err == nil {
			_, err = cage.Close(cage.Options{Network: true})
		}
		if err != nil {
			fmt.Fprintln(log, err)
			return 8
		}
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, task := range tasks {
			status, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
			if err != nil {
				fmt.Fprintln(log, err)
			}
			log.Write(status)
		}
		limits, _ := os.ReadFile("/proc/self/limits")
		log.Write(limits)
		score, _ := os.ReadFile("/proc/self/oom_score_adj")
		fmt.Fprintf(log, "score %s", score)
	}
	s.Created(nil)
	<-start
	s.Started()
	<-abandoned
	return 42
}

func mustCreate(t *testing.T, p *Process) {
	t.Helper()
	_, err := p.Create(bootstrap())
	must(t, err)
}

func unixGetsid() int {
	sid, _ := unix.Getsid(0)
	return sid
}

// launch starts a VM process and gives back what it logs when it has ended.
func launch(t *testing.T, name string, edit func(*Options)) (*Process, func() string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces: run it as root")
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "agent.sock"), Net: "unix"})
	must(t, err)
	agent, err := l.File()
	must(t, err)
	o := Options{ID: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Agent: agent, KVM: log, Log: log}
	if edit != nil {
		edit(&o)
	}
	p, err := Start(o)
	must(t, err)
	t.Cleanup(func() {
		p.Release()
		p.Kill()
		l.Close()
		agent.Close()
		log.Close()
	})
	return p, func() string {
		data, err := os.ReadFile(log.Name())
		must(t, err)
		return string(data)
	}
}

func bootstrap() *Bootstrap {
	return &Bootstrap{Plan: &spec.Plan{Spec: &specs.Spec{Process: &specs.Process{}}}}
}

// TestStartLowDescriptors has descriptors lower than what they become: package
// syscall moves them out of the way first, above all that are inherited.
func TestStartLowDescriptors(t *testing.T) {
	p, _ := launch(t, "ok", func(o *Options) {
		o.Stdout, o.Stderr, o.KVM = os.Stdin, os.Stdin, os.Stdin
	})
	mustCreate(t, p)
}

func TestStartIOPriority(t *testing.T) {
	const best, idle = 2<<13 | 5, 3 << 13
	for _, priority := range []int{best, idle} {
		p, log := launch(t, "inspect", func(o *Options) { o.IOPriority = priority })
		mustCreate(t, p)
		if want := fmt.Sprintf("ioprio %d 0\n", priority); !strings.Contains(log(), want) {
			t.Errorf("want %q in:\n%s", want, log())
		}
	}
	if _, err := Start(Options{IOPriority: 7 << 13}); err == nil || !strings.Contains(err.Error(), "process.ioPriority") {
		t.Errorf("a class that there is not: %v", err)
	}
}

func exitOf(t *testing.T, p *Process) int {
	t.Helper()
	state, err := p.Wait()
	must(t, err)
	return state.ExitCode()
}

func TestStartStepByStep(t *testing.T) {
	p, _ := launch(t, "ok", nil)
	mustCreate(t, p)
	must(t, p.Run())
	must(t, p.Release())
	if code := exitOf(t, p); code != 42 {
		t.Errorf("exit status %d; want 42", code)
	}
}

// TestStartWithoutLog has a standard input, too, that the Go runtime polls
// before anything else, with a descriptor that gets the first free number.
func TestStartWithoutLog(t *testing.T) {
	for _, flags := range []int{0, unix.O_NONBLOCK} {
		var ends [2]int
		must(t, unix.Pipe2(ends[:], unix.O_CLOEXEC|flags))
		stdin := os.NewFile(uintptr(ends[0]), "stdin")
		p, _ := launch(t, "nolog", func(o *Options) { o.Stdin, o.Log = stdin, nil })
		mustCreate(t, p)
		stdin.Close()
		unix.Close(ends[1])
	}
}

func TestStartFailures(t *testing.T) {
	p, _ := launch(t, "fails", nil)
	_, err := p.Create(bootstrap())
	var failure *Failure
	if !errors.As(err, &failure) || failure.Reason != "no luck" || failure.Status != 127 {
		t.Errorf("a reported failure: %v", err)
	}
	p, _ = launch(t, "dies", nil)
	if _, err := p.Create(bootstrap()); !errors.Is(err, errDied) {
		t.Errorf("a dead VM process: %v", err)
	}

	// A runtime that dies takes the VM process with it, before and after it has
	// sent the plan.
	p, _ = launch(t, "ok", nil)
	must(t, p.Release())
	if code := exitOf(t, p); code != 4 {
		t.Errorf("without a plan: exit status %d; want 4", code)
	}
	p, _ = launch(t, "abandoned", nil)
	must(t, writeMessage(p.conn, &message{Kind: kindBootstrap, Bootstrap: bootstrap()}))
	must(t, p.Release())
	if code := exitOf(t, p); code != 7 {
		t.Errorf("abandoned while creating: exit status %d; want 7", code)
	}
}

func TestNamespacesAndDescriptors(t *testing.T) {
	// A descriptor that a careless caller leaves open.
	leak, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(leak)

	target, _ := launch(t, "ok", func(o *Options) {
		o.Namespaces = []spec.Namespace{{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}}
	})
	mustCreate(t, target)
	targetNS := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", target.Pid, name) }
	link := func(path string) string {
		s, err := os.Readlink(path)
		must(t, err)
		return s
	}

	p, log := launch(t, "inspect", func(o *Options) {
		o.Namespaces = []spec.Namespace{
			{Type: specs.UTSNamespace, Path: targetNS("uts")},
			{Type: specs.NetworkNamespace, Path: targetNS("net")},
			{Type: specs.PIDNamespace},
			{Type: specs.IPCNamespace},
		}
	})
	mustCreate(t, p)
	got := log()
	for _, want := range []string{
		"session true",
		"uts " + link(targetNS("uts")),
		"net " + link(targetNS("net")),
		"cgroup " + link("/proc/self/ns/cgroup"),
		"env " + smallPages,
		"environment of hooks 0",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the VM process has no %q in:\n%s", want, got)
		}
	}
	for _, ns := range []string{"mnt", "pid", "ipc"} {
		if strings.Contains(got, ns+" "+link("/proc/self/ns/"+ns)+"\n") {
			t.Errorf("the VM process is in our %s namespace", ns)
		}
	}
	if strings.Contains(got, "fd /etc/passwd") {
		t.Error("an inherited descriptor went through")
	}
	for line := range strings.Lines(got) {
		// Our own stdio may be anything; so may the runtime's poller.
		fd, ok := strings.CutPrefix(strings.TrimSpace(line), "fd ")
		if ok && strings.HasPrefix(fd, "/") && !strings.HasPrefix(fd, "/dev/") && !strings.HasPrefix(fd, os.TempDir()) && !strings.HasPrefix(fd, "/proc/") {
			t.Errorf("the VM process has %s open", fd)
		}
	}
	if s := link("/proc/self/ns/uts"); s == link(targetNS("uts")) {
		t.Error("joining a namespace changed our own")
	}

	if _, err := Start(Options{Namespaces: []spec.Namespace{{Type: specs.NetworkNamespace, Path: "/nonexistent"}}}); err == nil || !strings.Contains(err.Error(), "network namespace") {
		t.Errorf("a missing namespace: %v", err)
	}
	if _, err := Start(Options{Namespaces: []spec.Namespace{{Type: specs.NetworkNamespace, Path: "/etc/passwd"}}}); err == nil || !strings.Contains(err.Error(), "join network namespace /etc/passwd") {
		t.Errorf("a file that is no namespace: %v", err)
	}
}

func TestCgroup(t *testing.T) {
	path := CgroupPath(spec.Cgroup{Path: fmt.Sprintf("runv-test-%d/deeper", os.Getpid())}, "x")
	if path == "" {
		t.Fatal("no cgroup v2 on /sys/fs/cgroup or /sys/fs/cgroup/unified: mount one")
	}
	t.Cleanup(func() { os.Remove(filepath.Dir(path)) })
	c, err := CreateCgroup(spec.Cgroup{}, path)
	must(t, err)
	defer c.Close()
	p, log := launch(t, "inspect", func(o *Options) { o.Cgroup = c })
	mustCreate(t, p)
	if !strings.Contains(log(), "deeper ") {
		t.Errorf("the VM process is not in its cgroup:\n%s", log())
	}
	if _, err := CreateCgroup(spec.Cgroup{}, path); err == nil || !strings.Contains(err.Error(), "container's cgroup is not empty") {
		t.Errorf("a cgroup in use: %v", err)
	}
	// Removal kills what is in there.
	must(t, RemoveCgroup(path))
	if state, err := p.Wait(); err != nil || state.Success() {
		t.Errorf("the VM process after the removal of its cgroup: %v, %v", state, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup after its removal: %v", err)
	}
	must(t, RemoveCgroup(path))

	bad := spec.Cgroup{Files: []spec.CgroupFile{{Name: "memory.nonsense", Value: "1"}}}
	if _, err := CreateCgroup(bad, path); err == nil || !strings.Contains(err.Error(), `"memory"`) {
		t.Errorf("a control file that does not exist: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed creation left the cgroup: %v", err)
	}
}
