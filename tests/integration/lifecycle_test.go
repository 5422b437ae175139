//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// trap waits for TERM and ends with 7; it tells when it is ready.
var trap = []string{"sh", "-c", "trap 'echo got TERM; exit 7' TERM; trap 'echo got HUP' HUP; echo ready; while :; do sleep 1; done"}

// psLine is the container's first process in the output of ps.
var psLine = regexp.MustCompile(`(?m)^root +1 +0 +\d+ +\S+ +\? +\d\d:\d\d:\d\d +sh -c trap `)

func TestLifecycle(t *testing.T) {
	noLeaks(t)
	dir, id := bundle(t, trap), newID()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer out.Close()
	pidFile := filepath.Join(t.TempDir(), "pid")
	create := command(t.Context(), "create", "-b", dir, "--pid-file", pidFile, id)
	create.Stdout, create.Stderr = out, out
	if err := create.Run(); err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { runv(t, nil, "delete", "--force", id) })

	s := waitStatus(t, id, specs.StateCreated)
	pid, err := os.ReadFile(pidFile)
	must(t, err)
	if string(pid) != strconv.Itoa(s.Pid) || s.Bundle != dir || s.ID != id || s.Version == "" {
		t.Errorf("state %+v, pid file %q", s, pid)
	}
	if data, _ := os.ReadFile(out.Name()); len(data) != 0 {
		t.Errorf("the program ran before start: %q", data)
	}
	r := runv(t, nil, "run", "-b", dir, id)
	if r.status == 0 || !strings.Contains(r.stderr, "already exists") {
		t.Errorf("a second container of the same name: %+v", r)
	}
	runv(t, nil, "start", id).expect(t, "", "", 0)
	waitStatus(t, id, specs.StateRunning)
	if r := runv(t, nil, "start", id); r.status == 0 || !strings.Contains(r.stderr, "running") {
		t.Errorf("start twice: %+v", r)
	}
	if r := runv(t, nil, "delete", id); r.status == 0 || !strings.Contains(r.stderr, "not stopped") {
		t.Errorf("delete of a running container: %+v", r)
	}
	var list []specs.State
	r = runv(t, nil, "list", "--format", "json")
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("list: %v: %q", err, r.stdout)
	}
	runv(t, nil, "list", "-q").expect(t, id+"\n", "", 0)

	waitOutput(t, out.Name(), "ready\n")
	if r := runv(t, nil, "ps", id); r.status != 0 || !psLine.MatchString(r.stdout) {
		t.Errorf("ps: %+v", r)
	}
	var pids []int
	r = runv(t, nil, "ps", "--format", "json", id)
	if err := json.Unmarshal([]byte(r.stdout), &pids); err != nil || len(pids) == 0 || pids[0] != 1 {
		t.Errorf("ps: %v: %q", err, r.stdout)
	}
	if r := runv(t, nil, "ps", id, "-aux"); r.status == 0 || !strings.Contains(r.stderr, "-aux") {
		t.Errorf("ps with options: %+v", r)
	}
	runv(t, nil, "kill", id, "0").expect(t, "", "", 0)
	runv(t, nil, "kill", id, "HUP").expect(t, "", "", 0)
	waitOutput(t, out.Name(), "ready\ngot HUP\n")
	runv(t, nil, "kill", id).expect(t, "", "", 0)
	s = waitStatus(t, id, specs.StateStopped)
	if s.Pid != 0 {
		t.Errorf("a stopped container has the pid %d", s.Pid)
	}
	waitOutput(t, out.Name(), "ready\ngot HUP\ngot TERM\n")
	for _, sig := range []string{"TERM", "KILL", "0"} {
		if r := runv(t, nil, "kill", id, sig); r.status == 0 || !strings.Contains(r.stderr, "container not running") {
			t.Errorf("kill %s of a stopped container: %+v", sig, r)
		}
		runv(t, nil, "kill", "--all", id, sig).expect(t, "", "", 0)
	}
	runv(t, nil, "ps", "--format", "json", id).expect(t, "[]\n", "", 0)
	runv(t, nil, "delete", id).expect(t, "", "", 0)
	if r := runv(t, nil, "delete", id); r.status == 0 || !strings.Contains(r.stderr, "does not exist") {
		t.Errorf("delete twice: %+v", r)
	}
}

// waitOutput waits until a file has exactly this content.
func waitOutput(t *testing.T, name, want string) {
	t.Helper()
	var got []byte
	for range int(limit.Milliseconds()) / 50 {
		var err error
		got, err = os.ReadFile(name)
		must(t, err)
		if string(got) == want {
			return
		}
		sleepShortly()
	}
	t.Fatalf("the output is %q; want %q", got, want)
}

func TestForegroundSignals(t *testing.T) {
	noLeaks(t)
	b := inBackground(t, "run", "-b", bundle(t, trap), newID())
	b.out.wait(t, "ready")
	must(t, b.Process.Signal(unix.SIGHUP))
	b.out.wait(t, "got HUP")
	must(t, b.Process.Signal(unix.SIGTERM))
	b.out.wait(t, "got TERM")
	if status := b.end(t); status != 7 {
		t.Errorf("status %d, stderr %q; want 7", status, b.stderr.String())
	}
}

func TestKilledVM(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, trap), id)
	b.out.wait(t, "ready")
	must(t, unix.Kill(stateOf(t, id).Pid, unix.SIGKILL))
	if status := b.end(t); status != 128+9 {
		t.Errorf("status %d, stderr %q; want 137", status, b.stderr.String())
	}
}

func TestKillVerb(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, trap), id)
	b.out.wait(t, "ready")
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	if status := b.end(t); status != 128+9 {
		t.Errorf("status %d, stderr %q; want 137", status, b.stderr.String())
	}
}

// TestKilledRuntime: the container outlives a killed `runv run`, as with runc,
// and delete --force ends it.
func TestKilledRuntime(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, trap), id)
	b.out.wait(t, "ready")
	must(t, b.Process.Kill())
	if s := stateOf(t, id); s.Status != specs.StateRunning {
		t.Errorf("the container is %s", s.Status)
	}
	runv(t, nil, "delete", "--force", id).expect(t, "", "", 0)
	b.Wait()
	runv(t, nil, "delete", "--force", id).expect(t, "", "", 0)
}

// TestKilledWhileCreating kills `runv create` at various moments; delete always
// cleans up.
func TestKilledWhileCreating(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, trap)
	for n := range 8 {
		id := newID()
		ctx, cancel := context.WithCancel(context.Background())
		cmd := command(ctx, "create", "-b", dir, id)
		must(t, cmd.Start())
		for range n * n {
			sleepShortly()
		}
		cancel()
		cmd.Wait()
		runv(t, nil, "delete", "--force", id).expect(t, "", "", 0)
		runv(t, nil, "delete", "--force", id).expect(t, "", "", 0)
	}
}

func TestDetachAndKeep(t *testing.T) {
	noLeaks(t)
	dir, id := bundle(t, []string{"sh", "-c", "exit 3"}), newID()
	runv(t, nil, "run", "--keep", "-b", dir, id).expect(t, "", "", 3)
	waitStatus(t, id, specs.StateStopped)
	runv(t, nil, "delete", id).expect(t, "", "", 0)

	id = newID()
	cmd := command(t.Context(), "run", "--detach", "-b", dir, id) // no pipes: they would be held open
	must(t, cmd.Run())
	waitStatus(t, id, specs.StateStopped)
	runv(t, nil, "delete", id).expect(t, "", "", 0)
}

func TestLogFile(t *testing.T) {
	noLeaks(t)
	log := filepath.Join(t.TempDir(), "log")
	r := runv(t, nil, "--log", log, "--log-format", "json", "run", "-b", bundle(t, []string{"nosuch"}), newID())
	r.expect(t, "", "*", 127)
	data, err := os.ReadFile(log)
	must(t, err)
	found := false
	for line := range strings.Lines(string(data)) {
		var entry struct{ Level, Msg, Time string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" {
			t.Errorf("log line %q: %v", line, err)
		}
		found = found || entry.Level == "error" && strings.Contains(entry.Msg, "nosuch")
	}
	if !found {
		t.Errorf("no error about the program in the log: %s", data)
	}
}

// TestNamespaces looks at the VM process from outside.
func TestNamespaces(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, trap), id)
	b.out.wait(t, "ready")
	pid := strconv.Itoa(stateOf(t, id).Pid)
	status, err := os.ReadFile("/proc/" + pid + "/status")
	must(t, err)
	for _, want := range []string{"NoNewPrivs:\t1\n", "CapBnd:\t0000000000000000\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the VM process has no %q:\n%s", want, status)
		}
	}
	if out, err := exec.Command("ls", "/proc/"+pid+"/root").CombinedOutput(); err != nil || !strings.Contains(string(out), "etc") || strings.Contains(string(out), "boot") {
		t.Errorf("the VM process sees the root %q, %v", out, err)
	}
	mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		for _, flag := range []string{"nosuid", "nodev", "noexec"} {
			if !strings.Contains(line, flag) {
				t.Errorf("a mount of the VM process without %s: %s", flag, line)
			}
		}
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		theirs, err := os.Readlink("/proc/" + pid + "/ns/" + ns)
		must(t, err)
		if ours == theirs {
			t.Errorf("the VM process is in the host's %s namespace", ns)
		}
	}
	cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
	must(t, err)
	if !strings.Contains(string(cgroup), id) {
		t.Errorf("the VM process is in %q", cgroup)
	}
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	b.end(t)
}

// TestOutOfMemory: the guest kills, and an engine that watches the container's
// cgroup learns of it.
func TestOutOfMemory(t *testing.T) {
	noLeaks(t)
	id := newID()
	dir := bundle(t, []string{"tail", "/dev/zero"}, func(s *specs.Spec) {
		limit := int64(64 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.CgroupsPath = "/" + id
		delete(s.Annotations, spec.AnnotationMemory)
	})
	b := inBackground(t, "run", "--keep", "-b", dir, id)
	if status := b.end(t); status != 128+9 {
		t.Errorf("status %d, stderr %q; want 137", status, b.stderr.String())
	}
	events, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", id, "memory.events"))
	must(t, err)
	if !strings.Contains(string(events), "\noom_kill 1\n") {
		t.Errorf("the cgroup's memory.events are %q", events)
	}
	runv(t, nil, "delete", id).expect(t, "", "", 0)
}
