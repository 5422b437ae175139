package vmm

import (
	"math/bits"
	"slices"

	"runv.dev/runv/vmm/kvm"
)

// CPUID leaves that are changed, and bits in them (Intel SDM volume 2, AMD APM
// volume 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst).
const (
	leafVendor           = 0x0
	leafFeatures         = 0x1
	leafCaches           = 0x4
	leafExtendedFeatures = 0x7
	leafXSave            = 0xd
	leafPMU              = 0xa
	leafTopology         = 0xb
	leafSGX              = 0x12
	leafTopologyV2       = 0x1f
	leafKVMFeatures      = 0x40000001
	leafExtFeatures      = 0x80000001
	leafExtSizes         = 0x80000008
	leafSVM              = 0x8000000a
	leafCachesAMD        = 0x8000001d
	leafTopologyAMD      = 0x8000001e
	leafSEV              = 0x8000001f
	leafPMUAMD           = 0x80000022
	leafTopologyAMD2     = 0x80000026

	// leaf 1
	ecxVMX         = 1 << 5
	ecxPDCM        = 1 << 15
	ecxX2APIC      = 1 << 21
	ecxTSCDeadline = 1 << 24
	ecxHypervisor  = 1 << 31
	edxDS          = 1 << 21
	edxHTT         = 1 << 28

	// leaf 0x80000001
	ecxCmpLegacy   = 1 << 1
	ecxSVM         = 1 << 2
	ecxTopoExt     = 1 << 22
	ecxPerfCore    = 1 << 23
	ecxPerfNB      = 1 << 24
	ecxPerfLLC     = 1 << 28
	levelTypeSMT   = 1
	levelTypeCore  = 2
	levelTypeShift = 8
)

// kvmFeatures are the paravirtual features a guest may see. Asynchronous page
// faults are missing on purpose: they cost every vCPU a shared page and an
// interrupt vector, for hosts that swap. So are those that need help from
// userspace.
const kvmFeatures = 1<<0 | // CLOCKSOURCE
	1<<1 | // NOP_IO_DELAY
	1<<3 | // CLOCKSOURCE2
	1<<5 | // STEAL_TIME
	1<<6 | // PV_EOI
	1<<7 | // PV_UNHALT
	1<<9 | // PV_TLB_FLUSH
	1<<11 | // PV_SEND_IPI
	1<<12 | // POLL_CONTROL
	1<<13 | // PV_SCHED_YIELD
	1<<24 // CLOCKSOURCE_STABLE

// cpuidTemplate makes what all vCPUs have in common out of what the host
// supports: cpus processors, each a core of its own, in one package. Nested
// virtualization, performance counters, SGX and SEV are hidden.
func cpuidTemplate(supported []kvm.CPUIDEntry, cpus int, tscDeadline bool) []kvm.CPUIDEntry {
	idBits := uint32(bits.Len(uint(cpus - 1)))
	ids := uint32(1)<<idBits - 1 // that the processors' ids can be at most
	var maxBasic uint32
	out := make([]kvm.CPUIDEntry, 0, len(supported)+3)
	for _, e := range supported {
		switch e.Function {
		case leafVendor:
			maxBasic = e.EAX
		case leafFeatures:
			e.EBX &= 0x0000ffff
			e.ECX &^= ecxVMX | ecxPDCM | ecxTSCDeadline
			e.ECX |= ecxHypervisor | ecxX2APIC
			if tscDeadline {
				e.ECX |= ecxTSCDeadline
			}
			e.EDX &^= edxDS | edxHTT
			if cpus > 1 {
				e.EDX |= edxHTT
				e.EBX |= min(ids+1, 0xff) << 16
			}
		case leafCaches:
			e.EAX = e.EAX&0x00003fff | min(ids, 63)<<26 | sharing(e.EAX, ids)<<14
		case leafCachesAMD:
			e.EAX = e.EAX&0x00003fff | sharing(e.EAX, ids)<<14
		case leafPMU, leafSGX, leafSVM, leafSEV, leafPMUAMD:
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		case leafTopology, leafTopologyV2, leafTopologyAMD2:
			continue
		case leafKVMFeatures:
			e.EAX &= kvmFeatures
		case leafExtFeatures:
			e.ECX &^= ecxCmpLegacy | ecxSVM | ecxPerfCore | ecxPerfNB | ecxPerfLLC
			if cpus > 1 && e.ECX&ecxTopoExt != 0 {
				e.ECX |= ecxCmpLegacy
			}
		case leafExtSizes:
			if e.ECX != 0 { // AMD
				e.ECX = e.ECX&^0xf0ff | idBits<<12 | uint32(cpus-1)
			}
		}
		out = append(out, e)
	}
	if maxBasic >= leafTopology {
		level := func(index, shift, n, typ uint32) kvm.CPUIDEntry {
			return kvm.CPUIDEntry{
				Function: leafTopology, Index: index, Flags: kvm.CPUIDSignificantIndex,
				EAX: shift, EBX: n, ECX: index | typ<<levelTypeShift,
			}
		}
		out = append(out,
			level(0, 0, 1, levelTypeSMT),
			level(1, idBits, uint32(cpus), levelTypeCore),
			level(2, 0, 0, 0))
	}
	return out
}

// sharing says how many ids beyond its own share a processor's cache: none
// those of level 1 and 2, all the ones further out.
func sharing(eax, ids uint32) uint32 {
	if level := eax >> 5 & 7; level < 3 {
		return 0
	}
	return ids
}

// cpuidFor completes the template with the APIC id of one vCPU.
func cpuidFor(template []kvm.CPUIDEntry, id uint32) []kvm.CPUIDEntry {
	out := slices.Clone(template)
	for i := range out {
		switch e := &out[i]; e.Function {
		case leafFeatures:
			e.EBX |= id << 24
		case leafTopology:
			e.EDX = id
		case leafTopologyAMD:
			// One thread a core, one node.
			e.EAX, e.EBX, e.ECX, e.EDX = id, id&0xff, 0, 0
		}
	}
	return out
}

// isIntel reports whether the leaves are those of an Intel processor.
func isIntel(entries []kvm.CPUIDEntry) bool {
	for _, e := range entries {
		if e.Function == leafVendor {
			return e.EBX == 0x756e6547 // "Genu"
		}
	}
	return false
}

// needsRealModeHelp reports whether KVM may need a TSS and an identity-mapped
// page table to run code without paging: VT-x only, and asking for them where
// they are not used would cost a memory slot.
func needsRealModeHelp(entries []kvm.CPUIDEntry) bool { return isIntel(entries) }
