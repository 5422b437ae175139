package guest

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/protocol"
)

func TestSettings(t *testing.T) {
	tests := []struct {
		name      string
		resources *specs.LinuxResources
		want      []string // file=value
	}{
		{"none", nil, nil},
		{"memory", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(50))}},
			[]string{"memory.swap.max=50", "memory.max=100", "memory.low=50"}},
		{"no memory limit", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}},
			[]string{"memory.swap.max=max", "memory.max=max"}},
		{"cpu", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(50000)), Period: ptr(uint64(200000))}},
			[]string{"cpu.weight=100", "cpu.max=50000 200000"}},
		{"burst", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(5000)), Burst: ptr(uint64(1000))}},
			[]string{"cpu.max.burst=0", "cpu.max=5000 100000", "cpu.max.burst=1000"}},
		{"idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Idle: ptr(int64(1))}}, []string{"cpu.idle=1"}},
		{"not idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Idle: ptr(int64(0))}},
			[]string{"cpu.idle=0", "cpu.weight=100"}},
		{"no reservation", &specs.LinuxResources{Memory: &specs.LinuxMemory{Reservation: ptr(int64(-1))}}, []string{"memory.low=0"}},
		{"no quota", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}, []string{"cpu.max=max 100000"}},
		{"pids", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(12))}}, []string{"pids.max=12"}},
		{"no pids limit", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, []string{"pids.max=max"}},
		{"unified", &specs.LinuxResources{Unified: map[string]string{"memory.high": "7"}}, []string{"memory.high=7"}},
	}
	for _, tt := range tests {
		list, err := settings(tt.resources)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		var got []string
		for _, s := range list {
			got = append(got, s.file+"="+s.value)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}
	for name, r := range map[string]*specs.LinuxResources{
		"swap below limit": {Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(50))}},
		"unified path":     {Unified: map[string]string{"../cgroup.procs": "1"}},
		"unified dots":     {Unified: map[string]string{"..": "1"}},
	} {
		if _, err := settings(r); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestCPUWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("cpuWeight(%d) = %d; want %d", shares, got, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sl) eep) R 1 2 3 34816 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25"))
	f.Add([]byte("1 ("))
	f.Add([]byte(") ("))
	f.Fuzz(func(t *testing.T, stat []byte) {
		p := new(protocol.Process)
		if err := parseStat(p, stat, bootTime()); err == nil && p.State == "" {
			t.Errorf("%q has no state", stat)
		}
	})
}
