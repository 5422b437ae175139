//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sleeping starts a container for execs.
func sleeping(t *testing.T, edit ...func(*specs.Spec)) (id string, b *background) {
	t.Helper()
	id = newID()
	b = inBackground(t, "run", "-b", bundle(t, []string{"sh", "-c", "echo ready; exec sleep 10000"}, edit...), id)
	b.out.wait(t, "ready")
	return id, b
}

func TestExec(t *testing.T) {
	noLeaks(t)
	id, b := sleeping(t, func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "OF=config")
		s.Process.Capabilities.Inheritable = nil
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		s.Annotations = map[string]string{"run.oci.runv.vcpus": "2"}
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	})
	tests := []struct {
		name    string
		options []string
		command []string
		stdout  string
		status  int
	}{
		{"as in the configuration", nil, []string{"sh", "-c", "pwd; id -u; echo $OF; cat /etc/motd"}, "/\n0\nconfig\nof the image\n", 0},
		{"options", []string{"--cwd", "/tmp", "-u", "1000:1001", "-g", "5", "-e", "OF=line", "-e", "X=a b"},
			[]string{"sh", "-c", `pwd; id -u; id -G; echo "$OF $X"`}, "/tmp\n1000\n1001 5\nline a b\n", 0},
		{"capability", []string{"--cap", "CAP_SYS_TIME"}, []string{"sh", "-c", "while read k v; do test $k = CapEff: && echo $v; done </proc/self/status; true"},
			fmt.Sprintf("%016x\n", 1<<unix.CAP_AUDIT_WRITE|1<<unix.CAP_KILL|1<<unix.CAP_NET_BIND_SERVICE|1<<unix.CAP_SYS_TIME), 0},
		{"I/O priority", nil, []string{"busybox", "ionice", "-p", "1"}, "best-effort: prio 6\n", 0},
		{"affinity", nil, []string{"busybox", "grep", "Cpus_allowed_list", "/proc/self/status"}, "Cpus_allowed_list:\t1\n", 0},
		{"options of the command", nil, []string{"echo", "-n", "--user", "-t"}, "--user -t", 0},
		{"exit status", nil, []string{"sh", "-c", "exit 42"}, "", 42},
		{"signal", nil, []string{"sh", "-c", "kill -9 $$"}, "", 137},
		{"missing program", nil, []string{"/no/such"}, "", 127},
		{"no program", nil, []string{"/etc/motd"}, "", 126},
		{"missing cwd", []string{"--cwd", "/no/such"}, []string{"true"}, "", 255},
		{"not a user", []string{"--user", "root"}, []string{"true"}, "", 255},
		{"no command", nil, nil, "", 255},
		{"descriptors", []string{"--preserve-fds", "1"}, []string{"true"}, "", 255},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append(append([]string{"exec"}, tt.options...), id)
			r := runv(t, nil, append(args, tt.command...)...)
			if r.stdout != tt.stdout || r.status != tt.status {
				t.Errorf("status %d, stdout %q, stderr %q; want %d, %q", r.status, r.stdout, r.stderr, tt.status, tt.stdout)
			}
			ours := tt.status >= 126 && tt.status != 137
			if lines := strings.Count(r.stderr, "\n"); ours && lines != 1 || !ours && lines != 0 {
				t.Errorf("stderr %q", r.stderr)
			}
		})
	}
	// Both directions, and each stream by itself.
	r := runv(t, strings.NewReader("in\n"), "exec", id, "sh", "-c", "cat; echo err >&2")
	r.expect(t, "in\n", "err\n", 0)

	process := filepath.Join(t.TempDir(), "process.json")
	must(t, os.WriteFile(process, []byte(`{"args": ["sh", "-c", "echo $A; pwd"], "env": ["PATH=/bin", "A=file"], "cwd": "/etc", "user": {}}`), 0o644))
	runv(t, nil, "exec", "--process", process, id).expect(t, "file\n/etc\n", "", 0)

	if r := runv(t, nil, "exec", id, "/no/such"); r.stderr != fmt.Sprintf("runv: cannot exec in %s: exec: \"/no/such\": stat /no/such: no such file or directory\n", id) {
		t.Errorf("a missing program: %q", r.stderr)
	}
	if r := runv(t, nil, "--debug", "exec", id, "true"); r.status != 0 || !strings.Contains(r.stderr, `level=debug msg=stage verb="process ended"`) {
		t.Errorf("exec with --debug: %+v", r)
	}
	must(t, os.WriteFile(process, []byte(`{"args": ["true"], "cwd": "/", "user": {}, "execCPUAffinity": {"final": "900"}}`), 0o644))
	if r := runv(t, nil, "exec", "--process", process, id); r.status != 255 || !strings.Contains(r.stderr, "has no processor of 900") {
		t.Errorf("a processor that the guest does not have: %+v", r)
	}

	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	b.end(t)
	if r := runv(t, nil, "exec", id, "true"); r.status != 255 || !strings.Contains(r.stderr, "does not exist") {
		t.Errorf("exec in no container: %+v", r)
	}
}

// TestExecSignals: what happens to runv exec happens to the process.
// TestExecCgroup: an exec runs in the cgroup that is asked for, and without one
// also in a container whose own takes no processes.
func TestExecCgroup(t *testing.T) {
	noLeaks(t)
	id, b := sleeping(t, func(s *specs.Spec) {
		for i, m := range s.Mounts {
			if m.Type == "cgroup" {
				s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev"}
			}
		}
	})
	const where = "cat /proc/self/cgroup"
	tests := []struct {
		cgroup, script string
		stdout, stderr string
	}{
		{"", where, "0::/\n", ""},
		{"/", where, "0::/\n", ""},
		{"..", "true", "", " .. is not a sub cgroup path"},
		{"none", "true", "", "/none/cgroup.procs: no such file or directory"},
		{"", "mkdir /sys/fs/cgroup/first /sys/fs/cgroup/second && echo 1 >/sys/fs/cgroup/first/cgroup.procs", "", ""},
		{"", where, "0::/\n", ""},
		{"", "echo $$ >/sys/fs/cgroup/first/cgroup.procs && echo +memory >/sys/fs/cgroup/cgroup.subtree_control", "", ""},
		{"", where, "0::/first\n", ""},
		{"/", "true", "", "/cgroup.procs: device or resource busy"},
		{"second", where, "0::/second\n", ""},
		{"/second/", where, "0::/second\n", ""},
	}
	for _, tt := range tests {
		args := []string{"exec", id, "sh", "-c", tt.script}
		if tt.cgroup != "" {
			args = append([]string{"exec", "--cgroup", tt.cgroup}, args[1:]...)
		}
		r := runv(t, nil, args...)
		if r.stdout != tt.stdout || !strings.Contains(r.stderr, tt.stderr) || (r.status != 0) != (tt.stderr != "") {
			t.Errorf("in %q: %s: status %d, %q, %q; want %q, %q", tt.cgroup, tt.script, r.status, r.stdout, r.stderr, tt.stdout, tt.stderr)
		}
	}
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	b.end(t)
}

func TestExecSignals(t *testing.T) {
	noLeaks(t)
	id, container := sleeping(t)
	b := inBackground(t, append([]string{"exec", id}, trap...)...)
	b.out.wait(t, "ready")
	must(t, b.Process.Signal(unix.SIGHUP))
	b.out.wait(t, "got HUP")
	must(t, b.Process.Signal(unix.SIGTERM))
	b.out.wait(t, "got TERM")
	if status := b.end(t); status != 7 {
		t.Errorf("status %d, stderr %q; want 7", status, b.stderr.String())
	}
	b = inBackground(t, append([]string{"exec", id}, trap...)...)
	b.out.wait(t, "ready")
	must(t, b.Process.Kill())
	b.end(t)
	waitProcesses(t, id, 1)

	b = inBackground(t, append([]string{"exec", id}, trap...)...)
	b.out.wait(t, "ready")
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	if status := b.end(t); status != 137 {
		t.Errorf("exec ended with status %d when its container was killed; want 137", status)
	}
	container.end(t)
}

// waitProcesses waits until a container has n processes, sleep(1) not counted.
func waitProcesses(t *testing.T, id string, n int) {
	t.Helper()
	var r result
	for range 200 {
		r = runv(t, nil, "ps", id)
		count := 0
		for line := range strings.Lines(r.stdout) {
			if !strings.Contains(line, "sleep 1\n") && !strings.HasPrefix(line, "UID") {
				count++
			}
		}
		if count == n {
			return
		}
		sleepShortly()
	}
	t.Errorf("ps has not %d processes: %+v", n, r)
}

// TestExecDetached does what an engine's monitor does: it is the subreaper, and
// waits for the pid in the file.
func TestExecDetached(t *testing.T) {
	noLeaks(t)
	must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	id, container := sleeping(t)
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	pid := func() int {
		data, err := os.ReadFile(pidFile)
		must(t, err)
		n, err := strconv.Atoi(string(data))
		must(t, err)
		return n
	}
	reap := func() unix.WaitStatus {
		var ws unix.WaitStatus
		for {
			_, err := unix.Wait4(pid(), &ws, 0, nil)
			if err == unix.EINTR {
				continue
			}
			must(t, err)
			return ws
		}
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	must(t, err)
	defer out.Close()
	detach := func(args ...string) int {
		cmd := command(t.Context(), append([]string{"exec", "-d", "--pid-file", pidFile}, args...)...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.Run()
		return statusOf(cmd)
	}
	if status := detach(append([]string{id}, trap...)...); status != 0 {
		t.Fatalf("exec --detach ended with %d", status)
	}
	waitOutput(t, out.Name(), "ready\n")
	must(t, unix.Kill(pid(), unix.SIGTERM))
	if ws := reap(); ws.ExitStatus() != 7 {
		t.Errorf("the process on the host ended with %#x; want exit status 7", ws)
	}
	waitOutput(t, out.Name(), "ready\ngot TERM\n")
	if status := detach(id, "/no/such"); status != 127 {
		t.Errorf("a missing program, detached: status %d", status)
	}
	if status := detach("--tty", id, "true"); status != 255 {
		t.Errorf("a terminal that nobody holds: status %d", status)
	}

	// A terminal.
	path, masters := consoleSocket(t)
	if status := detach("--tty", "--console-socket", path, id, "sh", "-c", "tty; stty size; read x; echo \"<$x>\"; exit 3"); status != 0 {
		t.Fatalf("exec --detach --tty ended with %d", status)
	}
	master, ok := <-masters
	if !ok {
		t.Fatal("no terminal came")
	}
	defer master.Close()
	lines := newLineReader(master)
	lines.wait(t, "/dev/pts/")
	_, err = master.WriteString("typed\r")
	must(t, err)
	lines.wait(t, "<typed>")
	if ws := reap(); ws.ExitStatus() != 3 {
		t.Errorf("the process on the host ended with %#x; want exit status 3", ws)
	}

	// Killing the process on the host is killing the one in the guest.
	if status := detach(append([]string{id}, trap...)...); status != 0 {
		t.Fatalf("exec --detach ended with %d", status)
	}
	must(t, unix.Kill(pid(), unix.SIGKILL))
	reap()
	waitProcesses(t, id, 1)
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	container.end(t)
}

// TestExecMany runs twenty at once.
func TestExecMany(t *testing.T) {
	noLeaks(t)
	id, container := sleeping(t)
	start := time.Now()
	results := make(chan result)
	const many = 20
	for n := range many {
		go func() { results <- runv(t, nil, "exec", id, "sh", "-c", fmt.Sprintf("echo %d; exit %d", n, n)) }()
	}
	for range many {
		r := <-results
		if r.stdout != fmt.Sprintf("%d\n", r.status) || r.stderr != "" {
			t.Errorf("%+v", r)
		}
	}
	t.Logf("%d in %v", many, time.Since(start))
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	container.end(t)
}
