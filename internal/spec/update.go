package spec

import (
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Running is what an update of the limits of a container goes by.
type Running struct {
	Machine Machine
	Limits  *specs.LinuxResources // in force, as of [Limits]; nil: none
	// HostMemory is memory.max of the VM process's cgroup, in bytes; 0: none.
	HostMemory uint64
}

// Update is a validated change of the limits of a container that exists.
type Update struct {
	Limits *specs.LinuxResources // in force afterwards
	Cgroup []CgroupFile          // what to write to the VM process's cgroup

	// Guest is what the guest's agent is to set, nil if nothing; Undo takes
	// that back.
	Guest, Undo *specs.LinuxResources

	// CheckMemory is a limit that is only to be set if the workload uses no
	// more, in bytes; 0: in any case.
	CheckMemory uint64

	Warnings []string
}

// Limits are those of r that later changes depend on: a quota is set together
// with its period, swap is counted from the memory limit. The rest is left out.
func Limits(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	return &specs.LinuxResources{CPU: r.CPU, Memory: r.Memory, Pids: r.Pids}
}

// NewUpdate validates a change of the limits. What it leaves out stays as it is,
// and so does what is 0, but for cpu.idle, cpu.period (0 is the default),
// cpu.burst (0 is none) and pids.limit (0 is none). All problems found are in
// the one error.
func NewUpdate(now Running, change *specs.LinuxResources, host Host) (*Update, error) {
	before := now.Limits
	if before == nil {
		before = &specs.LinuxResources{}
	}
	p := &planner{host: host}
	change = p.byName(change)
	after := merge(before, change)
	p.in = &specs.Spec{Linux: &specs.Linux{Resources: after}}
	p.resources(after)
	p.lateFiles(now.Machine.MemoryBytes)
	p.fits(now, before, change, after)
	if err := p.err(); err != nil {
		return nil, err
	}
	files := touched(change, after)
	u := &Update{
		Limits:   Limits(after),
		Cgroup:   p.changed(now, files),
		Guest:    guestLimits(after, files),
		Warnings: p.plan.Warnings,
	}
	if u.Guest != nil {
		u.Undo = guestLimits(before, files)
	}
	if list := guestUnified(change.Unified); list != nil {
		if u.Guest == nil {
			u.Guest = &specs.LinuxResources{}
		}
		u.Guest.Unified = list // nobody knows what was there before
	}
	if m := after.Memory; m != nil && slices.Contains(files, "memory.max") && m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate {
		u.CheckMemory = uint64(max(limitOf(m.Limit), 0))
	}
	return u, nil
}

// merge is what holds after a change.
func merge(before, change *specs.LinuxResources) *specs.LinuxResources {
	after := *change
	after.CPU, after.Memory = before.CPU, before.Memory
	if after.Pids == nil || after.Pids.Limit == nil {
		after.Pids = before.Pids
	}
	if c := change.CPU; c != nil {
		cpu := specs.LinuxCPU{}
		if before.CPU != nil {
			cpu = *before.CPU
		}
		take(&cpu.Shares, c.Shares, false)
		take(&cpu.Quota, c.Quota, false)
		take(&cpu.Period, c.Period, true)
		take(&cpu.Burst, c.Burst, true)
		take(&cpu.Idle, c.Idle, true)
		if c.Cpus != "" {
			cpu.Cpus = c.Cpus
		}
		if c.Mems != "" {
			cpu.Mems = c.Mems
		}
		cpu.RealtimePeriod, cpu.RealtimeRuntime = c.RealtimePeriod, c.RealtimeRuntime
		after.CPU = &cpu
	}
	if m := change.Memory; m != nil {
		memory := specs.LinuxMemory{}
		if before.Memory != nil {
			memory = *before.Memory
		}
		take(&memory.Limit, m.Limit, false)
		take(&memory.Swap, m.Swap, false)
		take(&memory.Reservation, m.Reservation, false)
		if limitOf(m.Limit) < 0 && limitOf(m.Swap) == 0 {
			// There is no limit on both together without one on the first.
			memory.Swap = m.Limit
		}
		//lint:ignore SA1019 deprecated, but a change may hold it
		memory.Kernel = m.Kernel
		memory.KernelTCP, memory.Swappiness, memory.DisableOOMKiller = m.KernelTCP, m.Swappiness, m.DisableOOMKiller
		take(&memory.CheckBeforeUpdate, m.CheckBeforeUpdate, true)
		after.Memory = &memory
	}
	return &after
}

// take replaces a limit by a new one, if there is one; zero says whether 0 is.
func take[T comparable](limit **T, by *T, zero bool) {
	var none T
	if by != nil && (zero || *by != none) {
		*limit = by
	}
}

// limitOf is a limit, 0 if there is none.
func limitOf(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// fits refuses what a VM that exists cannot give: its RAM and vCPUs stay.
func (p *planner) fits(now Running, before, change, after *specs.LinuxResources) {
	ram := now.Machine.MemoryBytes
	if m := change.Memory; m != nil {
		limit, old := limitOf(m.Limit), int64(0)
		if before.Memory != nil {
			old = limitOf(before.Memory.Limit)
		}
		switch {
		case limit > 0 && neededRAM(uint64(limit)) > ram && (old <= 0 || limit > old):
			p.refuse("linux.resources.memory.limit", "%d bytes are more than the VM can give: it has %d MiB of RAM, good for a limit of %d bytes: create the container again with the new limit",
				limit, ram>>20, workloadMemory(ram))
		case limit < 0 && old > 0:
			p.warn("linux.resources.memory.limit", "the VM keeps its %d MiB of RAM, which now bounds the container", ram>>20)
		}
	}
	if c := change.CPU; c != nil && (c.Quota != nil || c.Period != nil) {
		wanted := p.wantedVCPUs(after.CPU)
		if wanted > now.Machine.VCPUs && wanted > p.wantedVCPUs(before.CPU) {
			p.refuse("linux.resources.cpu.quota", "%d in periods of %d microseconds is more than the VM's %d vCPUs can use: create the container again with the new quota",
				*after.CPU.Quota, period(after.CPU), now.Machine.VCPUs)
		}
	}
}

// wantedVCPUs is what a VM created with these limits would have, 0 without a
// quota.
func (p *planner) wantedVCPUs(c *specs.LinuxCPU) int {
	if c == nil || limitOf(c.Quota) <= 0 {
		return 0
	}
	available := max(1, min(p.host.CPUs, maxVCPUs))
	if n, err := countSet(c.Cpus); c.Cpus != "" && err == nil {
		available = min(available, n)
	}
	each := period(c)
	return int(min((uint64(*c.Quota)+each-1)/each, uint64(available)))
}

func period(c *specs.LinuxCPU) uint64 {
	if c == nil || c.Period == nil || *c.Period == 0 {
		return defaultPeriod
	}
	return *c.Period
}

// workloadMemory is the highest limit that goes with so much RAM: neededRAM the
// other way round.
func workloadMemory(ram uint64) uint64 {
	n := uint64(0)
	if ram > fixedGuestMemory {
		n = (ram - fixedGuestMemory) / 33 * 32
	}
	return n
}

// touched are the control files that a change is about.
func touched(change, after *specs.LinuxResources) []string {
	var list []string
	add := func(yes bool, names ...string) {
		if yes {
			list = append(list, names...)
		}
	}
	if c := change.CPU; c != nil {
		add(c.Cpus != "", "cpuset.cpus")
		add(c.Mems != "", "cpuset.mems")
		add(c.Idle != nil, "cpu.idle")
		// An idle group has no weight.
		idle := after.CPU.Idle != nil && *after.CPU.Idle == 1
		add(!idle && (c.Idle != nil || c.Shares != nil && *c.Shares != 0), "cpu.weight")
		burst := c.Burst != nil
		if limitOf(c.Quota) != 0 || c.Period != nil {
			add(true, "cpu.max")
			// The burst is checked against the quota at every step.
			burst = burst || after.CPU.Burst != nil && *after.CPU.Burst > 0
		}
		add(burst, "cpu.max.burst")
	}
	if m := change.Memory; m != nil {
		add(limitOf(m.Limit) != 0, "memory.max")
		add(limitOf(m.Limit) != 0 || limitOf(m.Swap) != 0, "memory.swap.max")
		add(limitOf(m.Reservation) != 0, "memory.low")
	}
	add(change.Pids != nil && change.Pids.Limit != nil, "pids.max")
	return list
}

// unlimited is what a file says when its limit is lifted.
var unlimited = map[string]string{
	"cpu.idle": "0", "cpu.weight": "100", "cpu.max.burst": "0", "cpu.max": "max 100000",
	"memory.max": "max", "memory.swap.max": "max", "memory.low": "0", "pids.max": "max",
}

// changed are the writes for a change to the given files: first what is lifted,
// also for a moment where the order would matter, then what is set.
func (p *planner) changed(now Running, files []string) []CgroupFile {
	var lift, set []CgroupFile
	for _, f := range p.plan.Cgroup.Files {
		switch {
		case strings.HasPrefix(f.Name, "io.") || p.in.Linux.Resources.Unified[f.Name] != "":
		case !slices.Contains(files, f.Name):
			continue
		case f.Name == "memory.max":
			f.Value = strconv.FormatUint(keptMemory(now, uint64(limitOf(p.in.Linux.Resources.Memory.Limit))), 10)
		}
		set = append(set, f)
	}
	for _, name := range files {
		isSet := slices.ContainsFunc(set, func(f CgroupFile) bool { return f.Name == name })
		value, ok := unlimited[name]
		if name == "memory.max" {
			// A VM without a limit needs no more than this.
			value = strconv.FormatUint(now.Machine.MemoryBytes+vmmMemory, 10)
		}
		if ok && (!isSet || name == "cpu.max.burst") {
			lift = append(lift, CgroupFile{Name: name, Value: value, Lifts: true})
		}
	}
	return append(lift, set...)
}

// keptMemory is memory.max of a VM process after an update. It never falls: what
// the guest has once touched it does not give back, and a VM process that is
// over its limit is killed.
func keptMemory(now Running, limit uint64) uint64 {
	if now.HostMemory == 0 || now.HostMemory == math.MaxUint64 {
		return now.Machine.MemoryBytes + vmmMemory
	}
	return max(hostMemory(now.Machine.MemoryBytes, limit), now.HostMemory)
}

// guestLimits is what the guest's agent is to set for the given files: the
// limits r, lifted where there is none. It is nil if nothing concerns the guest.
func guestLimits(r *specs.LinuxResources, files []string) *specs.LinuxResources {
	var cpu specs.LinuxCPU
	var memory specs.LinuxMemory
	var pids specs.LinuxPids
	if r.CPU != nil {
		cpu = *r.CPU
	}
	if r.Memory != nil {
		memory = *r.Memory
	}
	if r.Pids != nil {
		pids = *r.Pids
	}
	var newCPU specs.LinuxCPU
	var newMemory specs.LinuxMemory
	g := &specs.LinuxResources{}
	for _, name := range files {
		switch name {
		case "cpu.idle":
			newCPU.Idle = or(cpu.Idle, 0)
		case "cpu.weight":
			newCPU.Shares = or(cpu.Shares, defaultShares)
		case "cpu.max.burst":
			newCPU.Burst = or(cpu.Burst, 0)
		case "cpu.max":
			newCPU.Quota, newCPU.Period = or(cpu.Quota, -1), or(cpu.Period, defaultPeriod)
		case "memory.max":
			newMemory.Limit = or(memory.Limit, -1)
		case "memory.low":
			newMemory.Reservation = or(memory.Reservation, -1)
		case "pids.max":
			g.Pids = &specs.LinuxPids{Limit: or(pids.Limit, -1)}
		}
	}
	if newCPU != (specs.LinuxCPU{}) {
		g.CPU = &newCPU
	}
	if newMemory != (specs.LinuxMemory{}) {
		g.Memory = &newMemory
	}
	if g.CPU == nil && g.Memory == nil && g.Pids == nil {
		return nil
	}
	return g
}

// or is a limit, or the value that stands for none.
func or[T comparable](limit *T, none T) *T {
	var zero T
	if limit == nil || *limit == zero {
		return &none
	}
	return limit
}
