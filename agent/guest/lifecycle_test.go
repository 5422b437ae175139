package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

// exec runs a script in the running container and returns its output.
func (h *harness) exec(id string, process *specs.Process) (result, error) {
	h.t.Helper()
	p := h.open(nil)
	created, err := h.client.Exec(h.ctx, client.ExecOptions{
		ContainerID: "c1", ExecID: id, Process: marshal(h.t, process), Stdio: p.stdio,
	})
	if err != nil {
		return result{}, err
	}
	exit, err := h.client.Wait(h.ctx, "c1", id)
	if err != nil {
		return result{}, err
	}
	p.wg.Wait()
	return result{exit: exit, stdout: p.out[0].String(), stderr: p.out[1].String(), created: created}, nil
}

func TestExec(t *testing.T) {
	h := newHarness(t)
	first := defaultSpec("sleep", "1000")
	umask, score, chown := uint32(0o027), 77, []string{"CAP_CHOWN"}
	first.Process.User.Umask, first.Process.OOMScoreAdj = &umask, &score
	first.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}}
	first.Process.Capabilities = &specs.LinuxCapabilities{Bounding: chown, Permitted: chown, Effective: chown}
	h.start(first)
	tests := []struct {
		name    string
		process func(*specs.Process)
		script  string
		stdout  string
		code    int
	}{
		{name: "in the container", script: "hostname; ls -d /data; echo $PPID; cat /proc/1/comm", stdout: "box\n/data\n0\nsleep\n"},
		{name: "exit code", script: "exit 9", code: 9},
		{name: "namespaces", script: "for n in mnt pid uts ipc cgroup net; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done"},
		{name: "cgroup", script: "cat /proc/self/cgroup | grep ^0", stdout: "0::/\n"},
		{name: "user", script: "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status", stdout: "1000\n1001\n1001 5 6\n/home/alice\nCapEff:\t0000000000000000\n",
			process: func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}}
			}},
		{name: "attributes of the first process", script: "ulimit -n; umask; grep CapEff /proc/self/status; cat /proc/self/oom_score_adj",
			stdout: "333\n0027\nCapEff:\t0000000000000001\n77\n",
			process: func(p *specs.Process) {
				p.Capabilities, p.Rlimits, p.User.Umask, p.OOMScoreAdj = nil, nil, nil, nil
			}},
		{name: "cwd", script: "pwd", stdout: "/data\n", process: func(p *specs.Process) { p.Cwd = "/data" }},
		{name: "timer slack", script: "cat /proc/self/timerslack_ns", stdout: "50000\n"},
		{name: "null output", script: "grep -c ^State /proc/self/status", stdout: "1\n"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			process := defaultSpec("sh", "-c", tt.script).Process
			if tt.process != nil {
				tt.process(process)
			}
			r, err := h.exec(fmt.Sprint("e", i), process)
			if err != nil {
				t.Fatal(err)
			}
			if r.stdout != tt.stdout || r.exit.Status() != tt.code || r.stderr != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q", r.exit.Status(), r.stdout, r.stderr, tt.code, tt.stdout)
			}
		})
	}
	h.t = t
	if _, err := h.exec("bad", defaultSpec("/no/such").Process); !errors.Is(err, client.ErrExecutableNotFound) {
		t.Errorf("missing executable: %v", err)
	}
	process := defaultSpec("true").Process
	process.Cwd = "/no/such"
	if _, err := h.exec("bad", process); err == nil || !strings.Contains(err.Error(), `chdir to cwd ("/no/such") set in config.json failed: no such file or directory`) {
		t.Errorf("missing cwd: %v", err)
	}
	if _, err := h.exec("e0", defaultSpec("true").Process); !errors.Is(err, client.ErrAlreadyExists) {
		t.Errorf("a name twice: %v", err)
	}
	if err := h.client.Signal(h.ctx, "c1", "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Wait(h.ctx, "c1", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.exec("late", defaultSpec("true").Process); !errors.Is(err, client.ErrBadState) {
		t.Errorf("exec in a dead container: %v", err)
	}
}

// writeNotifier tells when something was written.
type writeNotifier struct {
	net.Conn
	written chan struct{}
}

func (w *writeNotifier) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.written <- struct{}{}
	return n, err
}

func TestWaitOrKill(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sleep", "1000"))
	written := make(chan struct{}, 100)
	other, err := client.New(h.ctx, func(ctx context.Context, port uint32) (net.Conn, error) {
		conn, err := h.dial(ctx, port)
		return &writeNotifier{conn, written}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(h.ctx, client.ExecOptions{
		ContainerID: "c1", ExecID: "e1", Process: marshal(t, defaultSpec("sleep", "1000").Process),
	}); err != nil {
		t.Fatal(err)
	}
	for len(written) > 0 {
		<-written
	}
	waited := make(chan error)
	go func() {
		_, err := other.WaitOrKill(h.ctx, "c1", "e1")
		waited <- err
	}()
	<-written
	other.Close()
	if err := <-waited; !errors.Is(err, client.ErrAgentLost) {
		t.Errorf("the wait ended with %v", err)
	}
	exit, err := h.client.Wait(h.ctx, "c1", "e1")
	if err != nil || exit.Signal != unix.SIGKILL {
		t.Errorf("the process ended with %+v, %v; want SIGKILL", exit, err)
	}
}

func TestUnclaimed(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sleep", "1000"))
	for _, tt := range []struct {
		id      string
		orKill  bool
		claimed bool
	}{
		{id: "unclaimed", orKill: true},
		{id: "claimed", orKill: true, claimed: true},
		{id: "free"},
	} {
		if _, err := h.client.Exec(h.ctx, client.ExecOptions{
			ContainerID: "c1", ExecID: tt.id, Process: marshal(t, defaultSpec("sh", "-c", "sleep 2; exit 7").Process), OrKill: tt.orKill,
		}); err != nil {
			t.Fatal(err)
		}
		wait, want := h.client.Wait, 7
		if tt.claimed {
			wait = h.client.WaitOrKill
		} else if tt.orKill {
			want = 128 + int(unix.SIGKILL)
		}
		if exit, err := wait(h.ctx, "c1", tt.id); err != nil || exit.Status() != want {
			t.Errorf("%s: ended with %+v, %v; want status %d", tt.id, exit, err, want)
		}
	}
}

func TestSignals(t *testing.T) {
	h := newHarness(t)
	s, err := client.NewStdio(client.StdioOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	script := `trap 'echo TERM' TERM; trap 'echo USR1' USR1; trap 'echo RT; exit 5' 40; echo ready; while :; do sleep 0.05; done`
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, defaultSpec("sh", "-c", script)), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Signal(h.ctx, "c1", "", 65); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("signal 65: %v", err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); !errors.Is(err, client.ErrBadState) {
		t.Errorf("started twice: %v", err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s.Stdout, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	expect("ready\n")
	for _, step := range []struct {
		signal unix.Signal
		output string
	}{{unix.SIGTERM, "TERM\n"}, {unix.SIGUSR1, "USR1\n"}, {40, "RT\n"}} {
		if err := h.client.Signal(h.ctx, "c1", "", step.signal); err != nil {
			t.Fatal(err)
		}
		expect(step.output)
	}
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.Code != 5 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := h.client.Signal(h.ctx, "c1", "", unix.SIGTERM); !errors.Is(err, client.ErrBadState) {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestSignalAll(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sh", "-c", "sleep 1000 & sleep 1000 & wait; wait; exit 4"))
	for {
		list, err := h.client.Processes(h.ctx, "c1")
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 3 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.client.SignalAll(h.ctx, "c1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.Signal != unix.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestProcessesAndStats(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sleep", "1000"))
	list, err := h.client.Processes(h.ctx, "c1")
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	p := list[0]
	if p.ContainerPID != 1 || p.Command != "sleep" || !slices.Equal(p.Args, []string{"sleep", "1000"}) || p.State == "" {
		t.Errorf("process %+v", p)
	}
	if age := time.Since(p.Started); age < 0 || age > time.Minute {
		t.Errorf("started %v ago", age)
	}
	stats, err := h.client.Stats(h.ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if stats.CPU.Usage == 0 {
		t.Errorf("no CPU time: %+v", stats.CPU)
	}
}

func TestPause(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sh", "-c", "while :; do :; done"))
	usage := func() time.Duration {
		t.Helper()
		stats, err := h.client.Stats(h.ctx, "c1")
		if err != nil {
			t.Fatal(err)
		}
		return stats.CPU.Usage
	}
	if err := h.client.Pause(h.ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	// What it used up to its pause may be accounted late.
	before := usage()
	for deadline := time.Now().Add(10 * time.Second); ; {
		time.Sleep(100 * time.Millisecond)
		after := usage()
		if after == before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a paused container used %v", after-before)
		}
		before = after
	}
	if err := h.client.Resume(h.ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	for usage() == before {
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.client.Pause(h.ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	// SIGKILL works on what is paused.
	if err := h.client.Signal(h.ctx, "c1", "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit, err := h.client.Wait(h.ctx, "c1", ""); err != nil || exit.Status() != 137 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestWithoutPIDNamespace: what the first process leaves behind is killed.
func TestWithoutPIDNamespace(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("sh", "-c", "sleep 1000 & echo x; exit 3")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	r := h.mustRun(spec)
	if r.exit.Code != 3 || r.stdout != "x\n" {
		t.Errorf("%+v", r)
	}
}

func TestDeleteAndReuse(t *testing.T) {
	h := newHarness(t)
	for range 5 {
		h.start(defaultSpec("sleep", "1000"))
		if _, err := h.client.Create(h.ctx, client.CreateOptions{
			ID: "c1", Spec: marshal(t, defaultSpec("true")), RootfsTag: h.rootfs,
		}); !errors.Is(err, client.ErrAlreadyExists) {
			t.Errorf("created twice: %v", err)
		}
		if err := h.client.Delete(h.ctx, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.client.Delete(h.ctx, "c1"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if entries, err := filepath.Glob(filepath.Join("/proc", fmt.Sprint(h.cmd.Process.Pid), "fd", "*")); err != nil || len(entries) > 20 {
		t.Errorf("the agent has %d files open, %v", len(entries), err)
	}
}

func TestAgentLost(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sleep", "1000"))
	result := make(chan error, 1)
	go func() {
		_, err := h.client.Wait(context.Background(), "c1", "")
		result <- err
	}()
	time.Sleep(100 * time.Millisecond)
	h.cmd.Process.Kill()
	if err := <-result; !errors.Is(err, client.ErrAgentLost) {
		t.Errorf("wait: %v", err)
	}
	<-h.client.Done()
	if err := h.client.Ready(h.ctx); !errors.Is(err, client.ErrAgentLost) {
		t.Errorf("ready: %v", err)
	}
}

func TestReadyAndShutdown(t *testing.T) {
	h := newHarness(t)
	if err := h.client.Ready(h.ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Ready(h.ctx); err != nil {
		t.Fatal("the second time:", err)
	}
	h.start(defaultSpec("sleep", "1000"))
	if err := h.client.Ready(h.ctx); !errors.Is(err, client.ErrBadState) {
		t.Errorf("ready with a container: %v", err)
	}
	if err := h.client.Shutdown(h.ctx); err != nil {
		t.Fatal(err)
	}
	if state, err := h.cmd.Process.Wait(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

func TestEntropy(t *testing.T) {
	h := newHarness(t)
	if err := h.client.AddEntropy(h.ctx, make([]byte, 5000)); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("too much: %v", err)
	}
	if err := h.client.AddEntropy(h.ctx, []byte("0123456789")); err != nil {
		t.Error(err)
	}
}

// TestGarbage writes what no host writes to both ports.
func TestGarbage(t *testing.T) {
	h := newHarness(t)
	for _, port := range []uint32{1024, 1025} {
		for _, garbage := range []string{"", "x", strings.Repeat("\x00", 100), strings.Repeat("\xff", 100)} {
			conn, err := h.dial(h.ctx, port)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write([]byte(garbage))
			conn.Close()
		}
	}
	if got := h.sh(defaultSpec(), "echo fine"); !slices.Equal(got, []string{"fine"}) {
		t.Errorf("afterwards: %q", got)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", h.cmd.Process.Pid)); err != nil {
		t.Error(err)
	}
}
