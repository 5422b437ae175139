package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cgroup is the cgroup of the VM process.
type Cgroup struct {
	// Path is relative to the root of the cgroup v2 hierarchy and clean; empty
	// if the configuration leaves it to the runtime.
	Path string

	// Systemd: the cgroup is a scope of systemd's, named Unit (empty if the
	// configuration leaves it to the runtime) in Slice, and Path is empty.
	Systemd     bool
	Slice, Unit string

	// Files are control files and what to write to them, in this order.
	Files []CgroupFile
}

// CgroupFile is one write to a cgroup's control file.
type CgroupFile struct {
	Name  string
	Value string

	// Lifts says that the value is no limit, so that a file that does not
	// exist is no problem.
	Lifts bool `json:",omitempty"`
}

// What the VM process may use beyond the guest's share, so that the limits that
// the guest sets on the workload act first.
const (
	vmmMemory  = 96 << 20 // the VMM's own memory and the kernel's for the VM
	vmmThreads = 256
)

// cgroupsPath reads the path, or the form slice:prefix:name that engines use with
// the systemd driver.
func (p *planner) cgroupsPath(name string) {
	const at = "linux.cgroupsPath"
	parts := strings.Split(name, ":")
	systemdForm := len(parts) == 3 && !strings.Contains(name, "/")
	switch {
	case hasNUL(name):
		p.refuse(at, "contains a NUL byte")
	case p.host.SystemdCgroup:
		p.plan.Cgroup.Systemd, p.plan.Cgroup.Slice = true, defaultSlice
		if name != "" && !systemdForm {
			p.refuse(at, "%q is not slice:prefix:name, as --systemd-cgroup demands", name)
		} else if name != "" {
			p.scope(parts[0], parts[1], parts[2])
		}
	case systemdForm:
		p.refuse(at, "%q is for the systemd driver: use --systemd-cgroup (podman: --cgroup-manager systemd)", name)
	case name != "":
		p.plan.Cgroup.Path = strings.TrimPrefix(path.Clean("/"+name), "/")
		if p.plan.Cgroup.Path == "" {
			p.refuse(at, "is the root of the hierarchy")
		}
	}
}

// defaultSlice is where a scope is that names no slice.
const defaultSlice = "system.slice"

// scope names the unit.
func (p *planner) scope(slice, prefix, name string) {
	const at = "linux.cgroupsPath"
	unit := name
	if prefix != "" {
		unit = prefix + "-" + name
	}
	switch {
	case name == "":
		p.refuse(at, "the scope has no name")
	case strings.HasSuffix(name, ".slice"):
		p.refuse(at, "%q is a slice: a container is a scope", name)
	case !unitName(unit) || len(unit)+len(".scope") > maxUnitName:
		p.refuse(at, "%q is not the name of a systemd unit", unit)
	}
	if slice == "" {
		slice = defaultSlice
	}
	base, ok := strings.CutSuffix(slice, ".slice")
	root := base == "-"
	if !ok || !root && (!unitName(base) || strings.HasPrefix(base, "-") || strings.HasSuffix(base, "-") || strings.Contains(base, "--")) {
		p.refuse(at, "%q is not the name of a systemd slice", slice)
	}
	p.plan.Cgroup.Slice, p.plan.Cgroup.Unit = slice, unit+".scope"
}

// maxUnitName is UNIT_NAME_MAX of systemd.
const maxUnitName = 255

func unitName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\") == ""
}

func (p *planner) cgroup(l *specs.Linux) {
	p.cgroupsPath(l.CgroupsPath)
	p.resources(l.Resources)
}

func (p *planner) resources(r *specs.LinuxResources) {
	if r == nil {
		return
	}
	// The rules for devices go to the guest, whose devices they are about.
	for i, d := range r.Devices {
		at := indexed("linux.resources.devices", i, d.Type)
		switch d.Type {
		case "", "a", "b", "c":
		default:
			p.refuse(at, "%q is not a device type", d.Type)
		}
		if strings.Trim(d.Access, "rwm") != "" {
			p.refuse(at, "access %q is not made of r, w and m", d.Access)
		}
	}
	p.cpu(r.CPU)
	p.pids(r.Pids)
	p.blockIO(r.BlockIO)
	if len(r.HugepageLimits) > 0 {
		p.refuse("linux.resources.hugepageLimits", "the guest has no huge page pool")
	}
	if n := r.Network; n != nil && (n.ClassID != nil || len(n.Priorities) > 0) {
		p.refuse("linux.resources.network", "cgroup v2 has no network controller")
	}
	if len(r.Rdma) > 0 {
		p.refuse("linux.resources.rdma", "the VM has no RDMA device")
	}
	p.memoryChecks(r.Memory)
}

func (p *planner) write(name, format string, args ...any) {
	p.plan.Cgroup.Files = append(p.plan.Cgroup.Files, CgroupFile{Name: name, Value: fmt.Sprintf(format, args...)})
}

func (p *planner) cpu(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	const at = "linux.resources.cpu"
	if c.Period != nil && *c.Period != 0 && (*c.Period < 1000 || *c.Period > 1_000_000) {
		p.refuse(at+".period", "%d is outside 1000..1000000 microseconds", *c.Period)
	}
	if c.Quota != nil && *c.Quota > 0 && *c.Quota < 1000 {
		p.refuse(at+".quota", "%d is below 1000 microseconds", *c.Quota)
	}
	if (c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0) || (c.RealtimePeriod != nil && *c.RealtimePeriod != 0) {
		p.refuse(at+".realtimeRuntime", "cgroup v2 has no realtime scheduling limits")
	}
	if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
		p.refuse(at+".idle", "%d is neither 0 nor 1", *c.Idle)
	}
	p.set(at+".cpus", c.Cpus)
	p.set(at+".mems", c.Mems)
	if c.Cpus != "" {
		p.write("cpuset.cpus", "%s", c.Cpus)
	}
	if c.Mems != "" {
		p.write("cpuset.mems", "%s", c.Mems)
	}
	if c.Idle != nil && *c.Idle == 1 {
		p.write("cpu.idle", "1")
	} else if c.Shares != nil && *c.Shares != 0 {
		p.write("cpu.weight", "%d", cpuWeight(*c.Shares))
	}
	quota, period := "max", uint64(defaultPeriod)
	if c.Quota != nil && *c.Quota > 0 {
		quota = strconv.FormatInt(*c.Quota, 10)
	}
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
	}
	if quota != "max" || (c.Period != nil && *c.Period != 0) {
		p.write("cpu.max", "%s %d", quota, period)
	}
	if c.Burst != nil && *c.Burst > 0 {
		if c.Quota != nil && *c.Quota > 0 && *c.Burst > uint64(*c.Quota) {
			p.refuse(at+".burst", "%d is more than the quota of %d microseconds", *c.Burst, *c.Quota)
		}
		p.write("cpu.max.burst", "%d", *c.Burst)
	}
}

// set validates a list of processors or memory nodes that may be left out.
func (p *planner) set(at, list string) {
	if list == "" {
		return
	}
	if _, err := ParseSet(list); err != nil {
		p.refuse(at, "%v", err)
	}
}

// cpuWeight maps cpu.shares (2..262144) to cpu.weight (1..10000) the way every
// OCI runtime does.
func cpuWeight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func (p *planner) pids(l *specs.LinuxPids) {
	if l == nil || l.Limit == nil {
		return
	}
	// -1 and, as runc reads it, 0 are no limit.
	if *l.Limit > 0 {
		p.write("pids.max", "%d", min(*l.Limit, 4<<20)+vmmThreads)
	}
}

func (p *planner) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	const at = "linux.resources.blockIO"
	if (b.LeafWeight != nil && *b.LeafWeight != 0) || len(b.WeightDevice) > 0 {
		p.refuse(at, "leaf and per-device weights do not exist in cgroup v2")
	}
	if b.Weight != nil && *b.Weight != 0 {
		if *b.Weight < 10 || *b.Weight > 1000 {
			p.refuse(at+".weight", "%d is outside 10..1000", *b.Weight)
		} else {
			p.write("io.weight", "%d", 1+(uint64(*b.Weight)-10)*9999/990)
		}
	}
	for _, throttle := range []struct {
		key     string
		devices []specs.LinuxThrottleDevice
	}{
		{"rbps", b.ThrottleReadBpsDevice},
		{"wbps", b.ThrottleWriteBpsDevice},
		{"riops", b.ThrottleReadIOPSDevice},
		{"wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range throttle.devices {
			p.write("io.max", "%d:%d %s=%d", d.Major, d.Minor, throttle.key, d.Rate)
		}
	}
}

func (p *planner) memoryChecks(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	const at = "linux.resources.memory"
	if m.KernelTCP != nil && *m.KernelTCP > 0 {
		p.refuse(at+".kernelTCP", "cgroup v2 has no such limit")
	}
	//lint:ignore SA1019 deprecated, but a config.json may hold it
	if m.Kernel != nil && *m.Kernel > 0 {
		p.warn(at+".kernel", "deprecated, and ignored: cgroup v2 counts kernel memory in limit")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.refuse(at+".disableOOMKiller", "cgroup v2 cannot disable the OOM killer")
	}
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			p.refuse(at+".swappiness", "%d is outside 0..100", *m.Swappiness)
		} else {
			p.warn(at+".swappiness", "ignored: cgroup v2 has no such setting and the guest no swap")
		}
	}
	limit := int64(-1)
	if m.Limit != nil && *m.Limit > 0 {
		limit = *m.Limit
	}
	if m.Swap != nil && *m.Swap > 0 {
		switch {
		case limit < 0:
			p.refuse(at+".swap", "needs limit")
		case *m.Swap < limit:
			p.refuse(at+".swap", "memory and swap together (%d) are below the memory limit (%d)", *m.Swap, limit)
		}
	}
}

// lateFiles writes the limits that depend on the guest's RAM, and those that are
// given by the name of their file.
func (p *planner) lateFiles(ram uint64) {
	if p.in.Linux == nil || p.in.Linux.Resources == nil {
		return
	}
	p.memoryFiles(p.in.Linux.Resources.Memory, ram)
	p.unified(p.in.Linux.Resources.Unified)
}

// memoryFiles writes the limits on the VM process; ram is the guest's.
func (p *planner) memoryFiles(m *specs.LinuxMemory, ram uint64) {
	if m == nil {
		return
	}
	limit := int64(-1)
	if m.Limit != nil && *m.Limit > 0 {
		limit = *m.Limit
		p.write("memory.max", "%d", hostMemory(ram, uint64(limit)))
	}
	if m.Swap != nil && *m.Swap > 0 && limit > 0 {
		p.write("memory.swap.max", "%d", *m.Swap-limit)
	}
	if m.Reservation != nil && *m.Reservation > 0 {
		p.write("memory.low", "%d", *m.Reservation)
	}
}

// hostMemory is memory.max of a VM process, in bytes, for a VM with so much RAM
// and a workload limited to limit. An annotation that asks for more RAM does not
// lift the limit.
func hostMemory(ram, limit uint64) uint64 { return min(ram, guestRAM(limit)) + vmmMemory }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
