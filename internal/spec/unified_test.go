package spec

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestByName: limits that are given by the name of their file do what the
// properties do, and take their place.
func TestByName(t *testing.T) {
	const mib = 1 << 20
	typed := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(40_000)), Period: ptr(uint64(50_000)), Shares: ptr(uint64(1024))},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(100 * mib)), Reservation: ptr(int64(50 * mib))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(7))},
	}
	for _, c := range []struct {
		name    string
		typed   *specs.LinuxResources
		unified map[string]string
		machine Machine
		files   string
		guest   string // the resources
	}{
		{
			name: "alone", unified: map[string]string{"memory.max": "100M", "pids.max": "9", "cpu.max": "150000 100000"},
			machine: Machine{VCPUs: 2, MemoryBytes: 168 * mib}, files: "cpu.max=150000 100000 pids.max=265 memory.max=276824064",
			guest: `{"memory":{"limit":104857600},"cpu":{"quota":150000,"period":100000},"pids":{"limit":9}}`,
		},
		{
			name: "over the properties", typed: typed,
			unified: map[string]string{"memory.max": "64m\n", "memory.low": "1", "memory.high": "60000000", "pids.max": "max", "cpu.max": "25000", "cpu.weight": "42", "memory.swap.max": "max"},
			machine: Machine{VCPUs: 1, MemoryBytes: 132 * mib}, files: "cpu.max=25000 50000 memory.max=239075328 cpu.weight=42 memory.low=1 memory.swap.max=max",
			guest: `{"memory":{"limit":67108864,"reservation":52428800},"cpu":{"shares":1024,"quota":25000,"period":50000},"pids":{"limit":-1},"unified":{"memory.high":"60000000","memory.low":"1"}}`,
		},
		{
			name: "lifted", typed: typed, unified: map[string]string{"memory.max": "max", "cpu.max": "max 100000"},
			machine: Machine{VCPUs: 4, MemoryBytes: 2048 * mib}, files: "cpu.weight=39 cpu.max=max 100000 pids.max=263 memory.low=52428800",
			guest: `{"memory":{"limit":-1,"reservation":52428800},"cpu":{"shares":1024,"quota":-1,"period":100000},"pids":{"limit":7}}`,
		},
	} {
		s := minimal()
		if c.typed != nil {
			r := *c.typed
			s.Linux.Resources = &r
		}
		s.Linux.Resources.Unified = c.unified
		before := asJSON(t, s.Linux.Resources)
		p, err := New(s, "/bundle", host)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var files []string
		for _, f := range p.Cgroup.Files {
			files = append(files, f.Name+"="+f.Value)
		}
		if got := strings.Join(files, " "); got != c.files {
			t.Errorf("%s: files %q; want %q", c.name, got, c.files)
		}
		if p.Machine != c.machine {
			t.Errorf("%s: %+v; want %+v", c.name, p.Machine, c.machine)
		}
		if got := asJSON(t, p.Spec.Linux.Resources); got != c.guest {
			t.Errorf("%s: the guest gets %s; want %s", c.name, got, c.guest)
		}
		if after := asJSON(t, s.Linux.Resources); after != before {
			t.Errorf("%s: the configuration was changed: %s", c.name, after)
		}
	}
}

func TestByNameRefused(t *testing.T) {
	for name, values := range map[string][]string{
		"memory.max": {"", "0", "-1", "many", "10X", "K", "9223372036854775807K", "1 2"},
		"pids.max":   {"", "0", "-1", "10K", "0x10"},
		"cpu.max":    {"", "0", "max max", "1 2 3", "5000 x", "-1", "500", "5000 999"},
	} {
		for _, value := range values {
			s := minimal()
			s.Linux.Resources.Unified = map[string]string{name: value}
			if _, err := New(s, "/bundle", host); err == nil || !strings.Contains(err.Error(), "linux.resources.") {
				t.Errorf("%s %q: %v", name, value, err)
			}
		}
	}
}

// TestGuestUnified: what means something else in the guest stays on the host.
func TestGuestUnified(t *testing.T) {
	s := minimal()
	s.Linux.Resources.Unified = map[string]string{"cpuset.cpus": "5", "io.weight": "7", "memory.oom.group": "1"}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Spec.Linux.Resources.Unified; len(got) != 1 || got["memory.oom.group"] != "1" {
		t.Errorf("the guest gets %q", got)
	}
	if len(s.Linux.Resources.Unified) != 3 || len(p.Cgroup.Files) != 3 {
		t.Errorf("the host sets %+v of %q", p.Cgroup.Files, s.Linux.Resources.Unified)
	}
}
