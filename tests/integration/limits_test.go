//go:build integration

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// limitsProgram shows its limits whenever it gets HUP, and USR1 makes a child of
// it use more memory than there is.
var limitsProgram = []string{"sh", "-c", `
show() { cd /sys/fs/cgroup; for f in memory.max pids.max cpu.max; do echo $f $(busybox cat $f); done; }
trap show HUP
trap 'busybox tail /dev/zero; echo died' USR1
echo ready; while :; do sleep 1; done`}

// eventData is what this test reads of runc's events.
type eventData struct {
	Type, ID string
	Data     struct {
		CPU    struct{ Usage struct{ Total uint64 } }
		Memory *struct {
			Usage struct{ Limit, Usage uint64 }
			Raw   map[string]uint64
		}
		Pids *struct{ Current, Limit uint64 }
		VM   struct {
			Status string
			PID    int
			VCPUs  int
			RAM    uint64
			Memory struct{ Usage struct{ Limit, Usage uint64 } }

			Network struct{ Connections, Goroutines uint64 }
		}
	}
}

func statsOf(t *testing.T, id string) (e eventData) {
	t.Helper()
	r := runv(t, nil, "events", "--stats", id)
	r.expect(t, "*", "", 0)
	if err := json.Unmarshal([]byte(r.stdout), &e); err != nil || e.Type != "stats" || e.ID != id {
		t.Fatalf("events --stats: %v: %q", err, r.stdout)
	}
	return e
}

// TestLimits: update changes both sides or none, and events shows what came of it.
func TestLimits(t *testing.T) {
	const mib = 1 << 20
	noLeaks(t)
	id := newID()
	dir := bundle(t, limitsProgram, func(s *specs.Spec) {
		delete(s.Annotations, spec.AnnotationMemory)
		limit, swap := int64(64*mib), int64(128*mib) // as engines do
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &swap}
	})
	b := inBackground(t, "run", "-b", dir, id)
	b.out.wait(t, "ready")
	onHost := func(file string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/runv-"+id, file))
		must(t, err)
		return strings.TrimSpace(string(content))
	}
	hostMemory := onHost("memory.max")

	runv(t, nil, "update", "--memory", "48m", "--memory-swap", "48m", "--pids-limit", "30", "--cpu-quota", "50000", id).expect(t, "", "", 0)
	for file, want := range map[string]string{"memory.max": hostMemory, "memory.swap.max": "0", "pids.max": "286", "cpu.max": "50000 100000"} {
		if got := onHost(file); got != want {
			t.Errorf("%s of the VM process is %s; want %s", file, got, want)
		}
	}
	runv(t, nil, "kill", id, "HUP").expect(t, "", "", 0)
	for _, want := range []string{"memory.max 50331648", "pids.max 30", "cpu.max 50000 100000"} {
		if got := b.out.wait(t, strings.Fields(want)[0]); got != want {
			t.Errorf("in the guest: %s; want %s", got, want)
		}
	}
	runv(t, strings.NewReader(`{"pids":{"limit":40},"cpu":{"quota":-1}}`), "update", "-r", "-", id).expect(t, "", "", 0)
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--memory", "1g", "--memory-swap", "1g"}, "more than the VM can give"},
		{[]string{"--cpu-quota", "-5x"}, "not a value"},
		{[]string{"--pids-limit", "50", "--cpuset-cpus", "0,4000"}, "cannot set cpuset.cpus"},
		{[]string{"--cpu-rt-runtime", "1"}, "realtime"},
		{nil, "no limit is given"},
	} {
		if r := runv(t, nil, append(append([]string{"update"}, tt.flags...), id)...); r.status == 0 || !strings.Contains(r.stderr, tt.want) {
			t.Errorf("update %q: %+v; want %q", tt.flags, r, tt.want)
		}
	}
	e := statsOf(t, id)
	d := e.Data
	if d.Memory == nil || d.Pids == nil || d.Memory.Usage.Limit != 48*mib || d.Memory.Usage.Usage == 0 || d.Memory.Raw["anon"] == 0 ||
		d.Pids.Limit != 40 || d.Pids.Current < 1 || d.CPU.Usage.Total == 0 {
		t.Errorf("the container's figures: %+v", d)
	}
	if vm := d.VM; vm.Status != "running" || vm.PID != stateOf(t, id).Pid || vm.VCPUs != 1 || vm.RAM < 64*mib || vm.Memory.Usage.Usage < d.Memory.Usage.Usage {
		t.Errorf("the VM's figures: %+v", vm)
	}

	runv(t, nil, "pause", id).expect(t, "", "", 0)
	if d := statsOf(t, id).Data; d.Memory != nil || d.Pids != nil || d.VM.Status != "paused" || d.CPU.Usage.Total == 0 {
		t.Errorf("the figures of a paused container: %+v", d)
	}
	runv(t, nil, "resume", id).expect(t, "", "", 0)

	watch := inBackground(t, "events", "--interval", "300ms", id)
	watch.out.wait(t, `"type":"stats"`)
	runv(t, nil, "kill", id, "USR1").expect(t, "", "", 0)
	b.out.wait(t, "died")
	watch.out.wait(t, `{"type":"oom","id":"`+id+`"}`)
	other := inBackground(t, "events", "--interval", "300ms", id)
	other.out.wait(t, `"type":"stats"`)
	must(t, other.Process.Signal(unix.SIGINT))
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	if status := b.end(t); status != 128+9 {
		t.Errorf("status %d, stderr %q", status, b.stderr.String())
	}
	for _, events := range []*background{watch, other} {
		go func() { // the rest of its output
			for range events.out.lines {
			}
		}()
		if status := events.end(t); status != 0 {
			t.Errorf("%q: status %d, stderr %q", events.Args, status, events.stderr.String())
		}
	}
	if r := runv(t, nil, "events", id); r.status == 0 || !strings.Contains(r.stderr, "does not exist") {
		t.Errorf("events of a container that is gone: %+v", r)
	}
}
