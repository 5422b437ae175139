package main

import (
	"math"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/tsi"
)

// The data of a stats event, in the shape that other runtimes give it. Times
// are in nanoseconds, sizes in bytes; a limit of 2^64-1 is none.
type stats struct {
	// CPU is what the VM process took of the host, the VMM included: what the
	// limits act on and what it costs.
	CPU    cpuStats `json:"cpu"`
	CPUSet cpuSet   `json:"cpuset"`
	// Memory and Pids are the container's as the guest counts them; absent
	// while it is paused.
	Memory            *memoryStats        `json:"memory,omitempty"`
	Pids              *pidsStats          `json:"pids,omitempty"`
	Blkio             blkioStats          `json:"blkio"` // the VM process's
	Hugetlb           map[string]struct{} `json:"hugetlb"`
	IntelRdt          struct{}            `json:"intel_rdt"`
	NetworkInterfaces []struct{}          `json:"network_interfaces"`

	VM vmStats `json:"vm"`
}

// vmStats has what other runtimes have no place for.
type vmStats struct {
	Status specs.ContainerState `json:"status"`
	PID    int                  `json:"pid"` // the VM process
	VCPUs  int                  `json:"vcpus"`
	RAM    uint64               `json:"ram"`

	// Memory and Pids are of the whole VM process on the host.
	Memory memoryStats `json:"memory"`
	Pids   pidsStats   `json:"pids"`
	// CPU is the container's as the guest counts it; absent while paused.
	CPU *cpuStats `json:"guest_cpu,omitempty"`
	// Network is what the VM process does for the guest's sockets; absent while
	// paused.
	Network *tsi.Stats `json:"network,omitempty"`
}

type cpuStats struct {
	Usage struct {
		Total  uint64 `json:"total,omitempty"`
		Kernel uint64 `json:"kernel"`
		User   uint64 `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *psi `json:"psi,omitempty"`
}

// cpuSet has the lists only; the rest is of cgroup v1.
type cpuSet struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

type memoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"` // with memory, as in cgroup v1
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"` // memory.stat
	PSI       *psi              `json:"psi,omitempty"`
	Events    memoryEvents      `json:"event_count"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// memoryEvents is memory.events.
type memoryEvents struct {
	Low          uint64 `json:"low,omitempty"`
	High         uint64 `json:"high,omitempty"`
	Max          uint64 `json:"max,omitempty"`
	OOM          uint64 `json:"oom,omitempty"`
	OOMKill      uint64 `json:"oom_kill,omitempty"`
	OOMGroupKill uint64 `json:"oom_group_kill,omitempty"`
}

// pidsStats has no limit for 0.
type pidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioStats struct {
	Bytes []blkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Count []blkioEntry `json:"ioServicedRecursive,omitempty"`
	PSI   *psi         `json:"psi,omitempty"`
}

type blkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// psi is pressure stall information, of the VM process.
type psi struct {
	Some psiData `json:"some"`
	Full psiData `json:"full"`
}

type psiData struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// newStats puts together what the host's cgroup says and what the guest told,
// nil if it cannot.
func newStats(s *container.State, guest *figures) *stats {
	dir := s.Cgroup
	data := &stats{
		CPU:     hostCPU(dir),
		CPUSet:  cpuSet{CPUs: cgroup.Set(dir, "cpuset.cpus.effective"), Mems: cgroup.Set(dir, "cpuset.mems.effective")},
		Blkio:   hostBlkio(dir),
		Hugetlb: map[string]struct{}{},
		VM: vmStats{
			Status: s.Now(),
			PID:    s.Process.PID,
			VCPUs:  s.Machine.VCPUs,
			RAM:    s.Machine.MemoryBytes,
			Memory: hostMemory(dir),
			Pids:   newPids(hostValue(dir, "pids.current"), hostValue(dir, "pids.max")),
		},
	}
	if guest == nil {
		return data
	}
	data.VM.Network = guest.network
	m := guest.Memory
	memory := newMemory(m.Current, m.Peak, m.Limit, m.SwapCurrent, m.SwapLimit, m.Stat, m.Events)
	pids := newPids(guest.Pids.Current, guest.Pids.Limit)
	data.Memory, data.Pids = &memory, &pids
	c := guest.CPU
	data.VM.CPU = &cpuStats{}
	data.VM.CPU.Usage.Total, data.VM.CPU.Usage.User, data.VM.CPU.Usage.Kernel = uint64(c.Usage), uint64(c.User), uint64(c.System)
	throttling := &data.VM.CPU.Throttling
	throttling.Periods, throttling.ThrottledPeriods, throttling.ThrottledTime = c.Periods, c.ThrottledPeriods, uint64(c.Throttled)
	return data
}

func hostCPU(dir string) (c cpuStats) {
	table := cgroup.Table(dir, "cpu.stat")
	const microsecond = 1000
	c.Usage.Total = table["usage_usec"] * microsecond
	c.Usage.Kernel = table["system_usec"] * microsecond
	c.Usage.User = table["user_usec"] * microsecond
	c.Throttling.Periods = table["nr_periods"]
	c.Throttling.ThrottledPeriods = table["nr_throttled"]
	c.Throttling.ThrottledTime = table["throttled_usec"] * microsecond
	c.PSI = hostPSI(dir, "cpu.pressure")
	return c
}

func hostMemory(dir string) memoryStats {
	m := newMemory(hostValue(dir, "memory.current"), hostValue(dir, "memory.peak"), hostValue(dir, "memory.max"),
		hostValue(dir, "memory.swap.current"), hostValue(dir, "memory.swap.max"),
		cgroup.Table(dir, "memory.stat"), cgroup.Table(dir, "memory.events"))
	m.PSI = hostPSI(dir, "memory.pressure")
	return m
}

// hostValue is a number of a control file, 0 without its controller.
func hostValue(dir, file string) uint64 {
	n, _ := cgroup.Value(dir, file)
	return n
}

func newMemory(current, peak, limit, swap, swapLimit uint64, stat, events map[string]uint64) memoryStats {
	m := memoryStats{
		Cache: stat["file"],
		Usage: memoryEntry{Limit: limit, Usage: current, Max: peak},
		Swap:  memoryEntry{Limit: saturated(limit, swapLimit), Usage: saturated(current, swap)},
		Raw:   stat,
		Events: memoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"],
			OOM: events["oom"], OOMKill: events["oom_kill"], OOMGroupKill: events["oom_group_kill"],
		},
	}
	return m
}

// saturated is a sum that stays at no limit.
func saturated(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

func newPids(current, limit uint64) pidsStats {
	if limit == cgroup.None {
		limit = 0
	}
	return pidsStats{Current: current, Limit: limit}
}

func hostBlkio(dir string) (b blkioStats) {
	for _, d := range cgroup.IO(dir) {
		for _, op := range []struct{ name, bytes, count string }{
			{"Read", "rbytes", "rios"}, {"Write", "wbytes", "wios"},
		} {
			b.Bytes = append(b.Bytes, blkioEntry{d.Major, d.Minor, op.name, d.Counts[op.bytes]})
			b.Count = append(b.Count, blkioEntry{d.Major, d.Minor, op.name, d.Counts[op.count]})
		}
	}
	b.PSI = hostPSI(dir, "io.pressure")
	return b
}

func hostPSI(dir, file string) *psi {
	some, full, ok := cgroup.Pressures(dir, file)
	if !ok {
		return nil
	}
	return &psi{Some: psiData(some), Full: psiData(full)}
}
