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

	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/spec"
)

// busy keeps two processors busy with short processes, says what the time is and
// what the kernel had to complain about.
var busy = []string{"sh", "-c", `
echo 6 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout
for n in 1 2; do while :; do busybox true; done & done
echo ready
while sleep 1; do
	echo time $(busybox date +%s) $(busybox cut -d. -f1 /proc/uptime)
	busybox dmesg | busybox grep -iE 'stall|lockup|hung' >&2
done`}

// clocks waits for the next line with the guest's clocks: the wall clock and the
// time since it was started, in seconds.
func clocks(t *testing.T, b *background) (wall, up int64) {
	t.Helper()
	fields := strings.Fields(b.out.wait(t, "time "))
	var err1, err2 error
	wall, err1 = strconv.ParseInt(fields[1], 10, 64)
	up, err2 = strconv.ParseInt(fields[2], 10, 64)
	must(t, err1)
	must(t, err2)
	return wall, up
}

func cpuUsage(t *testing.T, id string) string {
	t.Helper()
	stat, err := os.ReadFile("/sys/fs/cgroup/runv-" + id + "/cpu.stat")
	must(t, err)
	usage, _, _ := strings.Cut(string(stat), "\n")
	return usage
}

// TestPause: a paused container stands still, says so, and goes on as if only
// time had passed.
func TestPause(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, busy, twoVCPUs, kernelLog), id)
	b.out.wait(t, "ready")
	running := stateOf(t, id)
	_, upBefore := clocks(t, b)
	const length = 9 * time.Second // more than what the guest calls a stall
	for round := range 2 {
		runv(t, nil, "pause", id).expect(t, "", "", 0)
		if s := stateOf(t, id); s.Status != container.StatePaused || s.Pid != running.Pid {
			t.Errorf("paused: %+v; it was %+v", s, running)
		}
		before := cpuUsage(t, id)
		if round == 0 {
			pausedRefuses(t, id)
		}
		time.Sleep(length)
		if after := cpuUsage(t, id); after != before {
			t.Errorf("a paused container went from %s to %s", before, after)
		}
		paused := time.Now().Unix()
		runv(t, nil, "resume", id).expect(t, "", "", 0)
		if r := runv(t, nil, "resume", id); r.status == 0 || !strings.Contains(r.stderr, "container not paused") {
			t.Errorf("resume twice: %+v", r)
		}
		wall, up := clocks(t, b)
		for began := time.Now(); wall < paused; wall, up = clocks(t, b) { // lines of before
			if time.Since(began) > limit {
				t.Fatalf("the guest's wall clock is %d; it was %d here at the resume", wall, paused)
			}
		}
		if now := time.Now().Unix(); wall > now {
			t.Errorf("the guest's wall clock is %d; here it is %d", wall, now)
		}
		if up < upBefore+int64(length/time.Second) {
			t.Errorf("the guest was up for %d seconds before the pause and for %d after it", upBefore, up)
		}
		upBefore = up
	}
	for range 5 {
		runv(t, nil, "pause", id).expect(t, "", "", 0)
		runv(t, nil, "resume", id).expect(t, "", "", 0)
	}
	clocks(t, b)
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	if status := b.end(t); status != 128+int(unix.SIGKILL) || b.stderr.Len() != 0 {
		t.Errorf("status %d, stderr %q; want 137 and no complaint of the guest's kernel", status, b.stderr.String())
	}
}

// pausedRefuses: what would need an answer of the guest fails at once.
func pausedRefuses(t *testing.T, id string) {
	t.Helper()
	for _, tt := range []struct {
		verb []string
		want string
	}{
		{[]string{"pause", id}, "container not running or created: paused"},
		{[]string{"kill", id, "STOP"}, "resume it first"},
		{[]string{"ps", id}, "resume it first"},
		{[]string{"exec", id, "true"}, "cannot exec in a paused container"},
		{[]string{"update", "--pids-limit", "100", id}, "resume it first"},
		{[]string{"start", id}, "resume it first"},
		{[]string{"delete", id}, "not stopped"},
	} {
		if r := runv(t, nil, tt.verb...); r.status == 0 || !strings.Contains(r.stderr, tt.want) {
			t.Errorf("%s of a paused container: %+v; want %q", tt.verb[0], r, tt.want)
		}
	}
}

// TestPauseCreated: also a container that was not started can be paused, and
// delete --force ends it.
func TestPauseCreated(t *testing.T) {
	noLeaks(t)
	id := newID()
	create := command(t.Context(), "create", "-b", bundle(t, trap), id)
	must(t, create.Run())
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	waitStatus(t, id, container.StatePaused)
	runv(t, nil, "resume", id).expect(t, "", "", 0)
	waitStatus(t, id, specs.StateCreated)
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	runv(t, nil, "delete", "--force", id).expect(t, "", "", 0)
	if r := runv(t, nil, "resume", id); r.status == 0 || !strings.Contains(r.stderr, "does not exist") {
		t.Errorf("resume of a deleted container: %+v", r)
	}
}

// TestExecIgnorePaused: what is started in a paused container waits for its
// resume, and fails if that never comes. A signal waits, too.
func TestExecIgnorePaused(t *testing.T) {
	noLeaks(t)
	id := newID()
	b := inBackground(t, "run", "-b", bundle(t, trap), id)
	b.out.wait(t, "ready")
	waiting := func() *background {
		x := inBackground(t, "exec", "--ignore-paused", id, "sh", "-c", "echo awake; exit 7")
		must(t, x.in.Close())
		waitOpen(t, x.Process.Pid, "cgroup.events")
		return x
	}
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	x := waiting()
	if s := stateOf(t, id); s.Status != container.StatePaused {
		t.Errorf("while an exec waits: %s", s.Status)
	}
	runv(t, nil, "resume", id).expect(t, "", "", 0)
	x.out.wait(t, "awake")
	if status := x.end(t); status != 7 {
		t.Errorf("after the resume: status %d, stderr %q", status, x.stderr.String())
	}
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	runv(t, nil, "kill", id, "HUP").expect(t, "", "", 0)
	runv(t, nil, "resume", id).expect(t, "", "", 0)
	b.out.wait(t, "got HUP")
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	x = waiting()
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	if status := x.end(t); status != 255 || !strings.Contains(x.stderr.String(), "container not running") {
		t.Errorf("of a killed container: status %d, stderr %q", status, x.stderr.String())
	}
	b.end(t)
}

// waitOpen waits until the process has a file of this name open.
func waitOpen(t *testing.T, pid int, name string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(t, err)
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && filepath.Base(target) == name {
				return
			}
		}
		if time.Since(began) > limit {
			t.Fatalf("process %d does not open %s", pid, name)
		}
	}
}

func twoVCPUs(s *specs.Spec) { s.Annotations[spec.AnnotationVCPUs] = "2" }

// kernelLog lets the container read and tune the guest's kernel.
func kernelLog(s *specs.Spec) {
	caps := []string{"CAP_SYSLOG"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Linux.ReadonlyPaths, s.Linux.MaskedPaths = nil, nil
	for i, m := range s.Mounts {
		if m.Type == "sysfs" {
			s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev"}
		}
	}
}
