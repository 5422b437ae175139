package spec

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// AnnotationPrefix starts the annotations that are for this runtime. Below it
// only the names of this package exist.
const AnnotationPrefix = "run.oci.runv."

// Annotations that change the machine, or what must be around it.
const (
	AnnotationVCPUs  = AnnotationPrefix + "vcpus"  // a number
	AnnotationMemory = AnnotationPrefix + "memory" // guest RAM: bytes, or with a suffix K, M, G, Ki, Mi, Gi, KiB …
	// AnnotationTemplate is "off" for a VM that boots, and "on" otherwise.
	AnnotationTemplate = AnnotationPrefix + "template"
	AnnotationCage     = AnnotationPrefix + "cage" // CageWarn or CageRequire
	// AnnotationDevices is DevicesRequire or DevicesAvailable.
	AnnotationDevices = AnnotationPrefix + "devices"
)

// What to do about devices of the configuration that a VM does not have.
const (
	DevicesRequire   = "require"   // refuse the container; the default
	DevicesAvailable = "available" // leave them out, with a warning
)

// What to do on a host that lacks a layer of the VM process's cage.
const (
	CageWarn    = "warn"
	CageRequire = "require"
)

// CheckCage returns an error unless policy is one of the two.
func CheckCage(policy string) error {
	if policy != CageWarn && policy != CageRequire {
		return fmt.Errorf("%q is neither %s nor %s", policy, CageWarn, CageRequire)
	}
	return nil
}

// Sizes of a VM.
const (
	defaultMemory = 2 << 30
	defaultVCPUs  = 4
	minMemory     = 64 << 20
	maxVCPUs      = 64
	memoryAlign   = 2 << 20

	// What the guest's kernel and agent need whatever the limit is.
	fixedGuestMemory = 64 << 20
)

// What the kernel has when nothing is set.
const (
	defaultPeriod = 100_000 // of a quota, in microseconds
	defaultShares = 1024
)

func (p *planner) annotations() {
	for _, name := range sortedKeys(p.in.Annotations) {
		if !strings.HasPrefix(name, AnnotationPrefix) {
			continue
		}
		at := "annotations[" + name + "]"
		value := p.in.Annotations[name]
		switch name {
		case AnnotationVCPUs:
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				p.refuse(at, "%q is not a number", value)
				continue
			}
			p.setVCPUs(at, n)
		case AnnotationMemory:
			n, err := parseSize(value)
			if err != nil {
				p.refuse(at, "%v", err)
				continue
			}
			p.setMemory(at, n)
		case AnnotationTemplate:
			if value != "on" && value != "off" {
				p.refuse(at, "%q is neither on nor off", value)
			}
			p.plan.NoTemplate = value == "off"
		case AnnotationCage:
			if err := CheckCage(value); err != nil {
				p.refuse(at, "%v", err)
			}
			p.plan.RequireCage = value == CageRequire
		case AnnotationDevices: // see devices
			if value != DevicesRequire && value != DevicesAvailable {
				p.refuse(at, "%q is neither %s nor %s", value, DevicesRequire, DevicesAvailable)
			}
		default:
			known, err := p.network(name, value)
			if err != nil {
				p.refuse(at, "%v", err)
			}
			if !known {
				p.refuse(at, "unknown annotation: there are %s, %s, %s, %s, %s, %s, %s, %s and %s", AnnotationVCPUs, AnnotationMemory, AnnotationTemplate, AnnotationCage,
					AnnotationDevices, AnnotationLoopback, AnnotationLinkLocal, AnnotationAllow, AnnotationDeny)
			}
		}
	}
}

func (p *planner) setVCPUs(at string, n uint64) {
	most := uint64(max(1, min(p.host.CPUs, maxVCPUs)))
	if n < 1 || n > most {
		p.refuse(at, "%d is outside 1..%d, what this host has", n, most)
		return
	}
	p.vcpus = int(n)
}

func (p *planner) setMemory(at string, n uint64) {
	switch {
	case n < minMemory:
		p.refuse(at, "%d bytes is less than the %d MiB a VM needs", n, minMemory>>20)
	case n > p.host.MemoryBytes:
		p.refuse(at, "%d bytes is more than the host's memory of %d MiB", n, p.host.MemoryBytes>>20)
	default:
		p.memory = alignMemory(n)
	}
}

func alignMemory(n uint64) uint64 { return (n + memoryAlign - 1) &^ (memoryAlign - 1) }

// sizing decides on RAM and vCPUs, and then on the memory limits that depend on
// the RAM.
func (p *planner) sizing() {
	m := &p.plan.Machine
	m.MemoryBytes, m.VCPUs = p.memory, p.vcpus
	limit, quota, period, cpus := p.limits()
	if m.MemoryBytes == 0 {
		m.MemoryBytes = defaultMemory
		if limit > 0 {
			m.MemoryBytes = min(guestRAM(limit), max(alignMemory(p.host.MemoryBytes), minMemory))
		}
	}
	if m.VCPUs == 0 {
		available := max(1, min(p.host.CPUs, maxVCPUs))
		if cpus > 0 {
			available = min(available, cpus)
		}
		m.VCPUs = min(available, defaultVCPUs)
		if quota > 0 {
			wanted := (quota + period - 1) / period
			m.VCPUs = int(min(wanted, uint64(available)))
		} else if cpus > 0 {
			m.VCPUs = available
		}
	}
	p.affinity(m.VCPUs)
	p.lateFiles(m.MemoryBytes)
}

// affinity refuses lists of processors for exec of which the VM has none.
func (p *planner) affinity(vcpus int) {
	if p.in.Process == nil || p.in.Process.ExecCPUAffinity == nil {
		return
	}
	a := p.in.Process.ExecCPUAffinity
	for _, list := range []struct{ name, value string }{{"initial", a.Initial}, {"final", a.Final}} {
		// What is there and no list was refused.
		if set, err := ParseSet(list.value); err == nil && set[0] >= vcpus {
			p.refuse("process.execCPUAffinity."+list.name, "the VM has none of the processors %s: its %d are numbered from 0", list.value, vcpus)
		}
	}
}

// guestRAM is the RAM of a VM for a workload limited to limit bytes: one of few
// sizes, as each size has a template of its own.
func guestRAM(limit uint64) uint64 { return sizeUp(neededRAM(limit)) }

// neededRAM is the least RAM for such a workload: what the guest's kernel, its
// page structures and the agent take comes on top.
func neededRAM(limit uint64) uint64 {
	if limit > 1<<50 {
		limit = 1 << 50
	}
	return alignMemory(limit + limit/32 + fixedGuestMemory)
}

// sizesPerDoubling is how many sizes of RAM there are from one power of two to
// the next: a VM has at most 1/32 more than it needs. See docs/adr/0006.
const sizesPerDoubling = 32

// sizeUp is the next size of RAM.
func sizeUp(n uint64) uint64 {
	step := max(uint64(1)<<(bits.Len64(n)-1)/sizesPerDoubling, memoryAlign)
	return (n + step - 1) / step * step
}

// limits has the figures that sizing goes by; 0 stands for none.
func (p *planner) limits() (memory, quota, period uint64, cpus int) {
	period = defaultPeriod
	if p.in.Linux == nil || p.in.Linux.Resources == nil {
		return
	}
	r := p.in.Linux.Resources
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		memory = uint64(*r.Memory.Limit)
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil && *c.Quota > 0 {
			quota = uint64(*c.Quota)
		}
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		if c.Cpus != "" {
			cpus, _ = countSet(c.Cpus) // the error is reported with the property
		}
	}
	return
}

// parseSize reads a number of bytes with an optional suffix. K is 1000, Ki 1024.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "KMGTiB")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: use bytes, or a number with K, M, G, Ki, Mi or Gi", s)
	}
	suffix := strings.TrimSuffix(s[len(digits):], "B")
	unit, ok := map[string]uint64{
		"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	}[suffix]
	if !ok {
		return 0, fmt.Errorf("%q is not a size: use bytes, or a number with K, M, G, Ki, Mi or Gi", s)
	}
	if n > (1<<63)/unit {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n * unit, nil
}

// ParseSet has the members of a cpuset list such as "0-3,7", in order.
func ParseSet(list string) ([]int, error) {
	const (
		most    = 1 << 13 // CONFIG_NR_CPUS of the largest kernels
		maxText = 8 * most
	)
	if len(list) > maxText {
		return nil, fmt.Errorf("a list of %d bytes: at most %d", len(list), maxText)
	}
	var seen [most]bool
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 32)
		b, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil || a > b || b >= most {
			return nil, fmt.Errorf("%q is not a list such as 0-3,7", list)
		}
		for n := a; n <= b; n++ {
			seen[n] = true
		}
	}
	var set []int
	for n, in := range seen {
		if in {
			set = append(set, n)
		}
	}
	return set, nil
}

// countSet counts the members of a cpuset list.
func countSet(list string) (int, error) {
	set, err := ParseSet(list)
	return len(set), err
}
