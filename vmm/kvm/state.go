package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// minXSave is the size of struct kvm_xsave, and of the smallest XSave.
const minXSave = 4096

// MaxXSave bounds the extended state of a vCPU, in bytes.
const MaxXSave = 64 << 10

// MaxMSRs bounds the MSRs of a vCPU's state.
const MaxMSRs = len(msrList{}.indices)

// VCPUState is all of a vCPU's state. What is an array of bytes is the
// structure of that name as the kernel has it.
type VCPUState struct {
	MPState   uint32
	Regs      [144]byte
	Sregs     [312]byte
	XSave     []byte // struct kvm_xsave, with what dynamic features add
	XCRs      [392]byte
	DebugRegs [128]byte
	LAPIC     [1024]byte
	TSCKHz    uint32
	MSRs      []MSREntry
	Events    [64]byte
}

// msrTSCDeadline is written last: whether it arms the timer depends on others.
const msrTSCDeadline = 0x6e0

// State reads the state of a vCPU that does not run. xsave is the value of
// CapXSave2, msrs the list of MSRIndexList. The order is that of the kernel's
// documentation: reading the multiprocessing state settles events that are
// pending, and the events come last.
func (v *VCPU) State(xsave int, msrs []uint32) (*VCPUState, error) {
	if xsave > MaxXSave {
		return nil, fmt.Errorf("KVM_GET_XSAVE2: %d bytes of extended state", xsave)
	}
	s := &VCPUState{XSave: make([]byte, max(xsave, minXSave))}
	var err error
	if s.MPState, err = v.MPState(); err != nil {
		return nil, err
	}
	op, req := "KVM_GET_XSAVE", uintptr(reqGetXSave)
	if xsave > minXSave {
		op, req = "KVM_GET_XSAVE2", reqGetXSave2
	}
	err = errors.Join(
		exchange(v, "KVM_GET_REGS", reqGetRegs, &s.Regs),
		exchange(v, "KVM_GET_SREGS", reqGetSregs, &s.Sregs),
		exchange(v, op, req, &s.XSave[0]),
		exchange(v, "KVM_GET_XCRS", reqGetXCRs, &s.XCRs),
		exchange(v, "KVM_GET_DEBUGREGS", reqGetDebugRegs, &s.DebugRegs),
		exchange(v, "KVM_GET_LAPIC", reqGetLAPIC, &s.LAPIC),
	)
	if err != nil {
		return nil, err
	}
	khz, err := v.TSCKHz()
	if err != nil {
		return nil, err
	}
	s.TSCKHz = uint32(khz)
	if s.MSRs, err = v.readableMSRs(msrs); err != nil {
		return nil, err
	}
	return s, exchange(v, "KVM_GET_VCPU_EVENTS", reqGetVCPUEvents, &s.Events)
}

// exchange issues a request that reads or writes one structure.
func exchange[T any](v *VCPU, op string, req uintptr, with *T) error {
	_, err := ioctlPtr(v.fd, op, req, with)
	return err
}

// readableMSRs reads those of the MSRs that this vCPU has.
func (v *VCPU) readableMSRs(index []uint32) ([]MSREntry, error) {
	var list []MSREntry
	for len(index) > 0 {
		arg := &msrs{nmsrs: uint32(min(len(index), maxMSREntries))}
		for i := range arg.nmsrs {
			arg.entries[i].Index = index[i]
		}
		n, err := ioctlPtr(v.fd, "KVM_GET_MSRS", reqGetMSRs, arg)
		if err != nil {
			return nil, err
		}
		list = append(list, arg.entries[:n]...)
		if n < int(arg.nmsrs) {
			n++ // the kernel stops at one that is not there
		}
		index = index[n:]
	}
	return list, nil
}

// SetState gives a new vCPU, whose CPUID has been set, a state. The order
// matters: the special registers say where the APIC is before its state comes,
// the APIC's timer mode is known before the deadline is, and the registers
// clear what the events set.
func (v *VCPU) SetState(s *VCPUState) error {
	if len(s.XSave) < minXSave {
		return fmt.Errorf("KVM_SET_XSAVE: %d bytes of extended state", len(s.XSave))
	}
	if khz, err := v.TSCKHz(); err != nil || khz != int(s.TSCKHz) {
		if err == nil {
			_, err = ioctl(v.fd, "KVM_SET_TSC_KHZ", reqSetTSCKHz, uintptr(s.TSCKHz))
		}
		if err != nil {
			return err
		}
	}
	if err := v.SetMPState(s.MPState); err != nil {
		return err
	}
	for _, part := range []func() error{
		func() error { return exchange(v, "KVM_SET_REGS", reqSetRegs, &s.Regs) },
		func() error { return exchange(v, "KVM_SET_SREGS", reqSetSregs, &s.Sregs) },
		func() error { return exchange(v, "KVM_SET_XSAVE", reqSetXSave, &s.XSave[0]) },
		func() error { return exchange(v, "KVM_SET_XCRS", reqSetXCRs, &s.XCRs) },
		func() error { return exchange(v, "KVM_SET_DEBUGREGS", reqSetDebugRegs, &s.DebugRegs) },
		func() error { return exchange(v, "KVM_SET_LAPIC", reqSetLAPIC, &s.LAPIC) },
		func() error { return v.restoreMSRs(s.MSRs) },
		func() error { return exchange(v, "KVM_SET_VCPU_EVENTS", reqSetVCPUEvents, &s.Events) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// restoreMSRs writes MSRs, the timer's deadline last. One that is refused must
// have its value already: some of those that the kernel lists are constants.
func (v *VCPU) restoreMSRs(list []MSREntry) error {
	var deadline []MSREntry
	arg := new(msrs)
	flush := func() error {
		for done := 0; done < int(arg.nmsrs); {
			rest := &msrs{nmsrs: arg.nmsrs - uint32(done)}
			copy(rest.entries[:], arg.entries[done:arg.nmsrs])
			n, err := ioctlPtr(v.fd, "KVM_SET_MSRS", reqSetMSRs, rest)
			if err != nil {
				return err
			}
			if done += n; done == int(arg.nmsrs) {
				break
			}
			refused := arg.entries[done]
			have, err := v.MSRs(refused.Index)
			if err != nil {
				return err
			}
			if have[0] != refused.Data {
				return fmt.Errorf("KVM_SET_MSRS: %#x is refused", refused.Index)
			}
			done++
		}
		arg.nmsrs = 0
		return nil
	}
	for _, e := range list {
		if e.Index == msrTSCDeadline {
			deadline = append(deadline, e)
			continue
		}
		if arg.nmsrs == maxMSREntries {
			if err := flush(); err != nil {
				return err
			}
		}
		arg.entries[arg.nmsrs] = e
		arg.nmsrs++
	}
	if err := flush(); err != nil {
		return err
	}
	for _, e := range deadline {
		if err := v.SetMSRs(e); err != nil {
			return err
		}
	}
	return nil
}

// RIP is the instruction pointer in a state, for messages.
func (s *VCPUState) RIP() uint64 { return binary.LittleEndian.Uint64(s.Regs[128:]) }

// clockData is struct kvm_clock_data.
type clockData struct {
	clock    uint64
	flags    uint32
	_        uint32
	realtime uint64
	hostTSC  uint64
	_        [4]uint32
}

// Clock reads the machine's kvm-clock in nanoseconds.
func (vm *VM) Clock() (uint64, error) {
	var c clockData
	_, err := ioctlPtr(vm.fd, "KVM_GET_CLOCK", reqGetClock, &c)
	return c.clock, err
}

// SetClock sets the machine's kvm-clock, which goes on from there.
func (vm *VM) SetClock(ns uint64) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_CLOCK", reqSetClock, &clockData{clock: ns})
	return err
}

// preFaultMemory is struct kvm_pre_fault_memory.
type preFaultMemory struct {
	gpa   uint64
	size  uint64
	flags uint64
	_     [5]uint64
}

// PreFaultMemory maps guest-physical memory as if the guest had read it: the
// guest's accesses need no exit then. It does as much as it can; the rest is
// left to the guest.
func (v *VCPU) PreFaultMemory(gpa, size uint64) error {
	arg := preFaultMemory{gpa: gpa, size: size}
	for arg.size > 0 {
		before := arg.size
		if _, err := ioctlPtr(v.fd, "KVM_PRE_FAULT_MEMORY", reqPreFaultMemory, &arg); err != nil {
			if errors.Is(err, unix.EAGAIN) && arg.size < before {
				continue
			}
			return err
		}
	}
	return nil
}
