package spec

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestSizing(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name        string
		cpu         *specs.LinuxCPU
		memory      int64
		annotations map[string]string
		vcpus       int
		ram         uint64
		max         string // memory.max
	}{
		{name: "defaults", vcpus: 4, ram: 2048 * mib},
		{name: "quota", cpu: &specs.LinuxCPU{Quota: ptr(int64(150_000)), Period: ptr(uint64(100_000))}, vcpus: 2, ram: 2048 * mib},
		{name: "quota without period", cpu: &specs.LinuxCPU{Quota: ptr(int64(50_000))}, vcpus: 1, ram: 2048 * mib},
		{name: "large quota", cpu: &specs.LinuxCPU{Quota: ptr(int64(1 << 60))}, vcpus: 8, ram: 2048 * mib},
		{name: "unlimited", cpu: &specs.LinuxCPU{Quota: ptr(int64(-1))}, vcpus: 4, ram: 2048 * mib},
		{name: "cpuset", cpu: &specs.LinuxCPU{Cpus: "0-5"}, vcpus: 6, ram: 2048 * mib},
		{name: "cpuset and quota", cpu: &specs.LinuxCPU{Cpus: "0,3", Quota: ptr(int64(400_000))}, vcpus: 2, ram: 2048 * mib},
		{name: "memory", memory: 512 * mib, vcpus: 4, ram: 592 * mib, max: "721420288"},
		{name: "memory of an odd size", memory: 1000*mib + 1, vcpus: 4, ram: 1120 * mib, max: "1275068416"},
		{name: "unlimited memory", memory: -1, vcpus: 4, ram: 2048 * mib},
		{name: "more than the host", memory: 1 << 62, vcpus: 4, ram: 16 << 30},
		{name: "annotations", annotations: map[string]string{AnnotationVCPUs: "3", AnnotationMemory: "100MiB"}, vcpus: 3, ram: 100 * mib},
		{name: "annotation above the limit", memory: 512 * mib, annotations: map[string]string{AnnotationMemory: "4Gi"}, vcpus: 4, ram: 4096 * mib, max: "721420288"},
	} {
		s := minimal()
		s.Linux.Resources.CPU = c.cpu
		if c.memory != 0 {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &c.memory}
		}
		s.Annotations = c.annotations
		p, err := New(s, "/bundle", host)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Machine != (Machine{VCPUs: c.vcpus, MemoryBytes: c.ram}) {
			t.Errorf("%s: %d vCPUs, %d MiB; want %d, %d", c.name, p.Machine.VCPUs, p.Machine.MemoryBytes/mib, c.vcpus, c.ram/mib)
		}
		limit := ""
		for _, f := range p.Cgroup.Files {
			if f.Name == "memory.max" {
				limit = f.Value
			}
		}
		if c.max != "" && limit != c.max {
			t.Errorf("%s: memory.max %q; want %q", c.name, limit, c.max)
		}
	}
}

// TestSizes: a VM has the RAM that its workload needs, and little more; limits
// that are close to each other make the same size.
func TestSizes(t *testing.T) {
	const mib = 1 << 20
	sizes := make(map[uint64]bool)
	for limit := uint64(1); limit < 64<<30; limit += limit/100 + 1 {
		need, ram := neededRAM(limit), guestRAM(limit)
		if ram < need || ram > need+max(need/32, memoryAlign) || ram%memoryAlign != 0 {
			t.Fatalf("limit %d needs %d, has %d", limit, need, ram)
		}
		if limit > 128*mib {
			sizes[ram] = true
		}
	}
	if most := 9*sizesPerDoubling + 1; len(sizes) > most {
		t.Errorf("%d sizes; want at most %d", len(sizes), most)
	}
	for limit, want := range map[uint64]uint64{64 * mib: 132 * mib, 256 * mib: 328 * mib, 1024 * mib: 1120 * mib, 4096 * mib: 4352 * mib} {
		if ram := guestRAM(limit); ram != want {
			t.Errorf("limit of %d MiB: %d MiB of RAM, want %d", limit/mib, ram/mib, want/mib)
		}
	}
}

func TestCPUWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("cpuWeight(%d) = %d; want %d", shares, got, want)
		}
	}
}
