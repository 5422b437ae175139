package sandbox

import (
	"fmt"
	"math"
	"reflect"
	"testing"

	"runv.dev/runv/internal/spec"
)

func TestSlicePath(t *testing.T) {
	for in, want := range map[string]string{
		"system.slice": "system.slice",
		"-.slice":      "",
		"a-b-c.slice":  "a.slice/a-b.slice/a-b-c.slice",
	} {
		if got := slicePath(in); got != want {
			t.Errorf("slicePath(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestScopeProperties(t *testing.T) {
	for _, tt := range []struct {
		file, value string
		want        map[string]any
	}{
		{"memory.max", "1048576", map[string]any{"MemoryMax": uint64(1 << 20)}},
		{"pids.max", "300", map[string]any{"TasksMax": uint64(300)}},
		{"cpu.weight", "100", map[string]any{"CPUWeight": uint64(100)}},
		{"cpu.max", "150000 100000", map[string]any{"CPUQuotaPerSecUSec": uint64(1_500_000), "CPUQuotaPeriodUSec": uint64(100_000)}},
		{"cpu.max", "1234 100000", map[string]any{"CPUQuotaPerSecUSec": uint64(20_000), "CPUQuotaPeriodUSec": uint64(100_000)}},
		{"cpu.max", "max 100000", map[string]any{"CPUQuotaPerSecUSec": uint64(math.MaxUint64), "CPUQuotaPeriodUSec": uint64(100_000)}},
		{"memory.max", "max", map[string]any{"MemoryMax": uint64(math.MaxUint64)}},
		{"cpuset.cpus", "\n", map[string]any{"AllowedCPUs": []byte{}}},
		{"cpuset.cpus", "0-2,9", map[string]any{"AllowedCPUs": []byte{7, 2}}},
		{"cpuset.mems", "0", map[string]any{"AllowedMemoryNodes": []byte{1}}},
		{"cpu.idle", "1", nil},
		{"io.max", "8:0 rbps=1", nil},
	} {
		got := make(map[string]any)
		for _, p := range scopeProperties([]spec.CgroupFile{{Name: tt.file, Value: tt.value}}) {
			got[p.Name] = p.Value.Value()
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) || len(got) > 0 && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s = %s: %v; want %v", tt.file, tt.value, got, tt.want)
		}
	}
}
