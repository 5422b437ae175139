package kvm

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// layout is what this package assumes about the ABI: the C expression that
// yields each number, the number according to the Go declarations, and the
// number as documented.
var layout = []struct {
	c    string
	got  uint64
	want uint64
}{
	{"sizeof(struct kvm_userspace_memory_region)", uint64(unsafe.Sizeof(UserspaceMemoryRegion{})), 32},
	{"offsetof(struct kvm_userspace_memory_region, userspace_addr)", uint64(unsafe.Offsetof(UserspaceMemoryRegion{}.UserspaceAddr)), 24},
	{"sizeof(struct kvm_regs)", uint64(unsafe.Sizeof(Regs{})), 144},
	{"offsetof(struct kvm_regs, rsi)", uint64(unsafe.Offsetof(Regs{}.RSI)), 32},
	{"offsetof(struct kvm_regs, rsp)", uint64(unsafe.Offsetof(Regs{}.RSP)), 48},
	{"offsetof(struct kvm_regs, r15)", uint64(unsafe.Offsetof(Regs{}.R15)), 120},
	{"offsetof(struct kvm_regs, rflags)", uint64(unsafe.Offsetof(Regs{}.RFLAGS)), 136},
	{"sizeof(struct kvm_segment)", uint64(unsafe.Sizeof(Segment{})), 24},
	{"offsetof(struct kvm_segment, type)", uint64(unsafe.Offsetof(Segment{}.Type)), 14},
	{"offsetof(struct kvm_segment, dpl)", uint64(unsafe.Offsetof(Segment{}.DPL)), 16},
	{"offsetof(struct kvm_segment, l)", uint64(unsafe.Offsetof(Segment{}.L)), 19},
	{"offsetof(struct kvm_segment, unusable)", uint64(unsafe.Offsetof(Segment{}.Unusable)), 22},
	{"sizeof(struct kvm_dtable)", uint64(unsafe.Sizeof(DTable{})), 16},
	{"sizeof(struct kvm_sregs)", uint64(unsafe.Sizeof(Sregs{})), 312},
	{"offsetof(struct kvm_sregs, ss)", uint64(unsafe.Offsetof(Sregs{}.SS)), 120},
	{"offsetof(struct kvm_sregs, tr)", uint64(unsafe.Offsetof(Sregs{}.TR)), 144},
	{"offsetof(struct kvm_sregs, gdt)", uint64(unsafe.Offsetof(Sregs{}.GDT)), 192},
	{"offsetof(struct kvm_sregs, cr0)", uint64(unsafe.Offsetof(Sregs{}.CR0)), 224},
	{"offsetof(struct kvm_sregs, cr4)", uint64(unsafe.Offsetof(Sregs{}.CR4)), 248},
	{"offsetof(struct kvm_sregs, efer)", uint64(unsafe.Offsetof(Sregs{}.EFER)), 264},
	{"offsetof(struct kvm_sregs, apic_base)", uint64(unsafe.Offsetof(Sregs{}.APICBase)), 272},
	{"sizeof(struct kvm_cpuid_entry2)", uint64(unsafe.Sizeof(CPUIDEntry{})), 40},
	{"offsetof(struct kvm_cpuid_entry2, eax)", uint64(unsafe.Offsetof(CPUIDEntry{}.EAX)), 12},
	{"sizeof(struct kvm_cpuid2)", uint64(unsafe.Offsetof(cpuid2{}.entries)), 8},
	{"sizeof(struct kvm_msr_entry)", uint64(unsafe.Sizeof(MSREntry{})), 16},
	{"offsetof(struct kvm_msr_entry, data)", uint64(unsafe.Offsetof(MSREntry{}.Data)), 8},
	{"sizeof(struct kvm_msrs)", uint64(unsafe.Offsetof(msrs{}.entries)), 8},
	{"sizeof(struct kvm_msr_list)", uint64(unsafe.Offsetof(msrList{}.indices)), 4},
	{"sizeof(struct kvm_mp_state)", uint64(unsafe.Sizeof(mpState{})), 4},
	{"sizeof(struct kvm_enable_cap)", uint64(unsafe.Sizeof(enableCap{})), 104},
	{"offsetof(struct kvm_enable_cap, args)", uint64(unsafe.Offsetof(enableCap{}.args)), 8},
	{"sizeof(struct kvm_irqfd)", uint64(unsafe.Sizeof(irqfd{})), 32},
	{"offsetof(struct kvm_irqfd, flags)", uint64(unsafe.Offsetof(irqfd{}.flags)), 8},
	{"sizeof(struct kvm_ioeventfd)", uint64(unsafe.Sizeof(ioeventfd{})), 64},
	{"offsetof(struct kvm_ioeventfd, fd)", uint64(unsafe.Offsetof(ioeventfd{}.fd)), 20},
	{"offsetof(struct kvm_ioeventfd, flags)", uint64(unsafe.Offsetof(ioeventfd{}.flags)), 24},
	{"sizeof(struct kvm_irq_routing_entry)", uint64(unsafe.Sizeof(irqRoutingEntry{})), 48},
	{"offsetof(struct kvm_irq_routing_entry, u.msi.data)", uint64(unsafe.Offsetof(irqRoutingEntry{}.data)), 24},
	{"sizeof(struct kvm_irq_routing)", uint64(unsafe.Offsetof(irqRouting{}.entries)), 8},
	{"sizeof(struct kvm_msi)", uint64(unsafe.Sizeof(msi{})), 32},
	{"offsetof(struct kvm_msi, data)", uint64(unsafe.Offsetof(msi{}.data)), 8},

	{"sizeof(struct kvm_xsave)", minXSave, 4096},
	{"sizeof(struct kvm_regs)", uint64(len(VCPUState{}.Regs)), 144},
	{"sizeof(struct kvm_sregs)", uint64(len(VCPUState{}.Sregs)), 312},
	{"sizeof(struct kvm_xcrs)", uint64(len(VCPUState{}.XCRs)), 392},
	{"sizeof(struct kvm_debugregs)", uint64(len(VCPUState{}.DebugRegs)), 128},
	{"sizeof(struct kvm_lapic_state)", uint64(len(VCPUState{}.LAPIC)), 1024},
	{"sizeof(struct kvm_vcpu_events)", uint64(len(VCPUState{}.Events)), 64},
	{"sizeof(struct kvm_clock_data)", uint64(unsafe.Sizeof(clockData{})), 48},
	{"sizeof(struct kvm_pre_fault_memory)", uint64(unsafe.Sizeof(preFaultMemory{})), 64},
	{"offsetof(struct kvm_pre_fault_memory, size)", uint64(unsafe.Offsetof(preFaultMemory{}.size)), 8},

	{"sizeof(struct kvm_run)", runMinSize, 2352},
	{"offsetof(struct kvm_run, immediate_exit)", runImmediateExit, 1},
	{"offsetof(struct kvm_run, exit_reason)", runExitReason, 8},
	{"offsetof(struct kvm_run, io.direction)", runIODirection, 32},
	{"offsetof(struct kvm_run, io.size)", runIOSize, 33},
	{"offsetof(struct kvm_run, io.port)", runIOPort, 34},
	{"offsetof(struct kvm_run, io.count)", runIOCount, 36},
	{"offsetof(struct kvm_run, io.data_offset)", runIODataOffset, 40},
	{"offsetof(struct kvm_run, mmio.phys_addr)", runMMIOPhysAddr, 32},
	{"offsetof(struct kvm_run, mmio.data)", runMMIOData, 40},
	{"offsetof(struct kvm_run, mmio.len)", runMMIOLen, 48},
	{"offsetof(struct kvm_run, mmio.is_write)", runMMIOIsWrite, 52},
	{"offsetof(struct kvm_run, fail_entry.hardware_entry_failure_reason)", runFailEntryReason, 32},
	{"offsetof(struct kvm_run, fail_entry.cpu)", runFailEntryCPU, 40},
	{"offsetof(struct kvm_run, internal.suberror)", runInternalSuberror, 32},
	{"offsetof(struct kvm_run, internal.ndata)", runInternalNData, 36},
	{"offsetof(struct kvm_run, internal.data)", runInternalData, 40},
	{"offsetof(struct kvm_run, system_event.type)", runSystemEventType, 32},
	{"offsetof(struct kvm_run, eoi.vector)", runEOIVector, 32},
	{"offsetof(struct kvm_run, hw.hardware_exit_reason) + 8", runMemoryFaultGPA, 40},

	{"KVM_GET_API_VERSION", reqGetAPIVersion, 0xae00},
	{"KVM_CREATE_VM", reqCreateVM, 0xae01},
	{"KVM_GET_MSR_INDEX_LIST", reqGetMSRIndexList, 0xc004ae02},
	{"KVM_CHECK_EXTENSION", reqCheckExtension, 0xae03},
	{"KVM_GET_VCPU_MMAP_SIZE", reqGetVCPUMmapSize, 0xae04},
	{"KVM_GET_SUPPORTED_CPUID", reqGetSupportedCPUID, 0xc008ae05},
	{"KVM_CREATE_VCPU", reqCreateVCPU, 0xae41},
	{"KVM_SET_USER_MEMORY_REGION", reqSetUserMemoryRegion, 0x4020ae46},
	{"KVM_SET_TSS_ADDR", reqSetTSSAddr, 0xae47},
	{"KVM_SET_IDENTITY_MAP_ADDR", reqSetIdentityMapAddr, 0x4008ae48},
	{"KVM_SET_GSI_ROUTING", reqSetGSIRouting, 0x4008ae6a},
	{"KVM_IRQFD", reqIRQFD, 0x4020ae76},
	{"KVM_IOEVENTFD", reqIOEventFD, 0x4040ae79},
	{"KVM_RUN", reqRun, 0xae80},
	{"KVM_GET_REGS", reqGetRegs, 0x8090ae81},
	{"KVM_SET_REGS", reqSetRegs, 0x4090ae82},
	{"KVM_GET_SREGS", reqGetSregs, 0x8138ae83},
	{"KVM_SET_SREGS", reqSetSregs, 0x4138ae84},
	{"KVM_GET_MSRS", reqGetMSRs, 0xc008ae88},
	{"KVM_SET_MSRS", reqSetMSRs, 0x4008ae89},
	{"KVM_SET_CPUID2", reqSetCPUID2, 0x4008ae90},
	{"KVM_GET_MP_STATE", reqGetMPState, 0x8004ae98},
	{"KVM_SET_MP_STATE", reqSetMPState, 0x4004ae99},
	{"KVM_ENABLE_CAP", reqEnableCap, 0x4068aea3},
	{"KVM_GET_TSC_KHZ", reqGetTSCKHz, 0xaea3},
	{"KVM_SIGNAL_MSI", reqSignalMSI, 0x4020aea5},
	{"KVM_SET_CLOCK", reqSetClock, 0x4030ae7b},
	{"KVM_GET_CLOCK", reqGetClock, 0x8030ae7c},
	{"KVM_GET_LAPIC", reqGetLAPIC, 0x8400ae8e},
	{"KVM_SET_LAPIC", reqSetLAPIC, 0x4400ae8f},
	{"KVM_GET_VCPU_EVENTS", reqGetVCPUEvents, 0x8040ae9f},
	{"KVM_SET_VCPU_EVENTS", reqSetVCPUEvents, 0x4040aea0},
	{"KVM_GET_DEBUGREGS", reqGetDebugRegs, 0x8080aea1},
	{"KVM_SET_DEBUGREGS", reqSetDebugRegs, 0x4080aea2},
	{"KVM_SET_TSC_KHZ", reqSetTSCKHz, 0xaea2},
	{"KVM_GET_XSAVE", reqGetXSave, 0x9000aea4},
	{"KVM_SET_XSAVE", reqSetXSave, 0x5000aea5},
	{"KVM_GET_XCRS", reqGetXCRs, 0x8188aea6},
	{"KVM_SET_XCRS", reqSetXCRs, 0x4188aea7},
	{"KVM_GET_XSAVE2", reqGetXSave2, 0x9000aecf},
	{"KVM_PRE_FAULT_MEMORY", reqPreFaultMemory, 0xc040aed5},
	{"KVM_KVMCLOCK_CTRL", reqKVMClockCtrl, 0xaead},

	{"KVM_CAP_IRQCHIP", uint64(CapIRQChip), 0},
	{"KVM_CAP_USER_MEMORY", uint64(CapUserMemory), 3},
	{"KVM_CAP_SET_TSS_ADDR", uint64(CapSetTSSAddr), 4},
	{"KVM_CAP_EXT_CPUID", uint64(CapExtCPUID), 7},
	{"KVM_CAP_NR_VCPUS", uint64(CapNrVCPUs), 9},
	{"KVM_CAP_MP_STATE", uint64(CapMPState), 14},
	{"KVM_CAP_IRQ_ROUTING", uint64(CapIRQRouting), 25},
	{"KVM_CAP_IRQFD", uint64(CapIRQFD), 32},
	{"KVM_CAP_IOEVENTFD", uint64(CapIOEventFD), 36},
	{"KVM_CAP_SET_IDENTITY_MAP_ADDR", uint64(CapSetIdentityMapAddr), 37},
	{"KVM_CAP_ADJUST_CLOCK", uint64(CapAdjustClock), 39},
	{"KVM_CAP_XSAVE2", uint64(CapXSave2), 208},
	{"KVM_CAP_PRE_FAULT_MEMORY", uint64(CapPreFaultMemory), 236},
	{"KVM_CAP_MAX_VCPUS", uint64(CapMaxVCPUs), 66},
	{"KVM_CAP_TSC_DEADLINE_TIMER", uint64(CapTSCDeadlineTimer), 72},
	{"KVM_CAP_KVMCLOCK_CTRL", uint64(CapKVMClockCtrl), 76},
	{"KVM_CAP_SIGNAL_MSI", uint64(CapSignalMSI), 77},
	{"KVM_CAP_ENABLE_CAP_VM", uint64(CapEnableCapVM), 98},
	{"KVM_CAP_SPLIT_IRQCHIP", uint64(CapSplitIRQChip), 121},
	{"KVM_CAP_IMMEDIATE_EXIT", uint64(CapImmediateExit), 136},
	{"KVM_CAP_PMU_CAPABILITY", uint64(CapPMUCapability), 212},
	{"KVM_PMU_CAP_DISABLE", PMUCapDisable, 1},

	{"KVM_EXIT_IO", uint64(ExitIO), 2},
	{"KVM_EXIT_HLT", uint64(ExitHLT), 5},
	{"KVM_EXIT_MMIO", uint64(ExitMMIO), 6},
	{"KVM_EXIT_SHUTDOWN", uint64(ExitShutdown), 8},
	{"KVM_EXIT_FAIL_ENTRY", uint64(ExitFailEntry), 9},
	{"KVM_EXIT_INTR", uint64(ExitIntr), 10},
	{"KVM_EXIT_INTERNAL_ERROR", uint64(ExitInternalError), 17},
	{"KVM_EXIT_SYSTEM_EVENT", uint64(ExitSystemEvent), 24},
	{"KVM_EXIT_IOAPIC_EOI", uint64(ExitIOAPICEOI), 26},
	{"KVM_EXIT_IO_OUT", IODirectionOut, 1},
	{"KVM_SYSTEM_EVENT_SHUTDOWN", SystemEventShutdown, 1},
	{"KVM_SYSTEM_EVENT_RESET", SystemEventReset, 2},
	{"KVM_SYSTEM_EVENT_CRASH", SystemEventCrash, 3},
	{"KVM_MP_STATE_RUNNABLE", MPStateRunnable, 0},
	{"KVM_MP_STATE_UNINITIALIZED", MPStateUninitialized, 1},
	{"KVM_IOEVENTFD_FLAG_DATAMATCH", ioeventfdFlagDatamatch, 1},
	{"KVM_IOEVENTFD_FLAG_DEASSIGN", ioeventfdFlagDeassign, 4},
	{"KVM_IRQFD_FLAG_DEASSIGN", irqfdFlagDeassign, 1},
	{"KVM_IRQ_ROUTING_MSI", irqRoutingMSI, 2},
	{"KVM_CPUID_FLAG_SIGNIFCANT_INDEX", CPUIDSignificantIndex, 1},
}

func TestLayout(t *testing.T) {
	for _, l := range layout {
		if l.got != l.want {
			t.Errorf("%s = %#x; want %#x", l.c, l.got, l.want)
		}
	}
}

// since is the macro that headers have which know what the expression is about:
// those of a stable distribution can be older than the kernel.
func since(c string) string {
	switch {
	case strings.Contains(strings.ToLower(c), "pre_fault_memory"):
		return "KVM_CAP_PRE_FAULT_MEMORY" // Linux 6.11
	case strings.Contains(c, "PMU_CAP"):
		return "KVM_CAP_PMU_CAPABILITY" // Linux 5.18
	}
	return "KVM_API_VERSION"
}

// TestLayoutAgainstHeaders compiles the same expressions against <linux/kvm.h>.
func TestLayoutAgainstHeaders(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("no gcc: TestLayout alone has compared the ABI with its documented numbers")
	}
	var src bytes.Buffer
	src.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n")
	for _, l := range layout {
		fmt.Fprintf(&src, "#ifndef %s\nprintf(\"%%llu\\n\", %dULL);\n#else\n", since(l.c), l.want)
		fmt.Fprintf(&src, "printf(\"%%llu\\n\", (unsigned long long)(%s));\n#endif\n", l.c)
	}
	src.WriteString("return 0; }\n")
	dir := t.TempDir()
	file, bin := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	if err := os.WriteFile(file, src.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", bin, file).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(bytes.NewReader(out))
	for _, l := range layout {
		if !scan.Scan() {
			t.Fatal("too few lines")
		}
		v, err := strconv.ParseUint(strings.TrimSpace(scan.Text()), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if l.c == "sizeof(struct kvm_run)" {
			if v < l.got { // grows at its end with the kernel
				t.Errorf("%s = %d in the header; want at least %d", l.c, v, l.got)
			}
		} else if l.got != v {
			t.Errorf("%s = %#x; the header has %#x", l.c, l.got, v)
		}
	}
}
