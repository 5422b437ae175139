package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// VCPU is a virtual CPU with its shared kvm_run area.
type VCPU struct {
	fd  int
	run []byte
}

// Close unmaps kvm_run and drops the handle.
func (v *VCPU) Close() error {
	if v.fd < 0 {
		return nil
	}
	fd, run := v.fd, v.run
	v.fd, v.run = -1, nil
	return errors.Join(
		os.NewSyscallError("munmap", unix.Munmap(run)),
		os.NewSyscallError("close", unix.Close(fd)),
	)
}

// Run enters the guest until it needs userspace. The result is 0 when
// ExitReason is set; EINTR when a signal or SetImmediateExit ended it, with all
// I/O of the exit before completed.
func (v *VCPU) Run() unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.fd), reqRun, 0)
	return errno
}

// SetImmediateExit makes Run return at once, or not. It may be called on any
// thread while the VCPU is open.
func (v *VCPU) SetImmediateExit(on bool) { storeImmediateExit(v.run, on) }

// ExitReason says why Run returned 0.
func (v *VCPU) ExitReason() ExitReason {
	return ExitReason(binary.LittleEndian.Uint32(v.run[runExitReason:]))
}

// IO is the exit information of ExitIO.
type IO struct {
	Out  bool
	Size int // bytes of one access: 1, 2 or 4
	Port uint16
	Data []byte // one or more accesses, inside kvm_run; filled by the handler unless Out
}

// IO gives the exit information of ExitIO.
func (v *VCPU) IO() (IO, error) {
	size := int(v.run[runIOSize])
	count := uint64(binary.LittleEndian.Uint32(v.run[runIOCount:]))
	off := binary.LittleEndian.Uint64(v.run[runIODataOffset:])
	n := uint64(size) * count
	if size != 1 && size != 2 && size != 4 || off > uint64(len(v.run)) || n > uint64(len(v.run))-off {
		return IO{}, fmt.Errorf("KVM_EXIT_IO: size %d, count %d, offset %d", size, count, off)
	}
	return IO{
		Out:  v.run[runIODirection] == IODirectionOut,
		Size: size,
		Port: binary.LittleEndian.Uint16(v.run[runIOPort:]),
		Data: v.run[off : off+n],
	}, nil
}

// MMIO is the exit information of ExitMMIO.
type MMIO struct {
	Write bool
	Addr  uint64
	Data  []byte // 1 to 8 bytes inside kvm_run; filled by the handler unless Write
}

// MMIO gives the exit information of ExitMMIO.
func (v *VCPU) MMIO() (MMIO, error) {
	n := binary.LittleEndian.Uint32(v.run[runMMIOLen:])
	if n < 1 || n > 8 {
		return MMIO{}, fmt.Errorf("KVM_EXIT_MMIO: length %d", n)
	}
	return MMIO{
		Write: v.run[runMMIOIsWrite] != 0,
		Addr:  binary.LittleEndian.Uint64(v.run[runMMIOPhysAddr:]),
		Data:  v.run[runMMIOData : runMMIOData+n],
	}, nil
}

// FailEntry gives the hardware's reason and the host CPU of ExitFailEntry.
func (v *VCPU) FailEntry() (reason uint64, cpu uint32) {
	return binary.LittleEndian.Uint64(v.run[runFailEntryReason:]), binary.LittleEndian.Uint32(v.run[runFailEntryCPU:])
}

// InternalError gives the suberror and the data of ExitInternalError.
func (v *VCPU) InternalError() (suberror uint32, data []uint64) {
	n := min(binary.LittleEndian.Uint32(v.run[runInternalNData:]), 16)
	for i := range n {
		data = append(data, binary.LittleEndian.Uint64(v.run[runInternalData+8*i:]))
	}
	return binary.LittleEndian.Uint32(v.run[runInternalSuberror:]), data
}

// SystemEvent gives the type of ExitSystemEvent.
func (v *VCPU) SystemEvent() uint32 { return binary.LittleEndian.Uint32(v.run[runSystemEventType:]) }

// EOIVector gives the vector of ExitIOAPICEOI.
func (v *VCPU) EOIVector() uint8 { return v.run[runEOIVector] }

// MemoryFault gives the guest-physical address of ExitMemoryFault.
func (v *VCPU) MemoryFault() uint64 { return binary.LittleEndian.Uint64(v.run[runMemoryFaultGPA:]) }

// Regs reads the general purpose registers.
func (v *VCPU) Regs() (Regs, error) {
	var r Regs
	_, err := ioctlPtr(v.fd, "KVM_GET_REGS", reqGetRegs, &r)
	return r, err
}

// SetRegs writes the general purpose registers.
func (v *VCPU) SetRegs(r Regs) error {
	_, err := ioctlPtr(v.fd, "KVM_SET_REGS", reqSetRegs, &r)
	return err
}

// Sregs reads the special registers.
func (v *VCPU) Sregs() (Sregs, error) {
	var s Sregs
	_, err := ioctlPtr(v.fd, "KVM_GET_SREGS", reqGetSregs, &s)
	return s, err
}

// SetSregs writes the special registers.
func (v *VCPU) SetSregs(s Sregs) error {
	_, err := ioctlPtr(v.fd, "KVM_SET_SREGS", reqSetSregs, &s)
	return err
}

// SetCPUID decides what the CPUID instruction says, before the first Run.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("KVM_SET_CPUID2: %d entries", len(entries))
	}
	arg := &cpuid2{nent: uint32(len(entries))}
	copy(arg.entries[:], entries)
	_, err := ioctlPtr(v.fd, "KVM_SET_CPUID2", reqSetCPUID2, arg)
	return err
}

// MSRs reads the given MSRs, in order.
func (v *VCPU) MSRs(index ...uint32) ([]uint64, error) {
	if len(index) > maxMSREntries {
		return nil, fmt.Errorf("KVM_GET_MSRS: %d entries", len(index))
	}
	arg := &msrs{nmsrs: uint32(len(index))}
	for i, x := range index {
		arg.entries[i].Index = x
	}
	n, err := ioctlPtr(v.fd, "KVM_GET_MSRS", reqGetMSRs, arg)
	if err != nil {
		return nil, err
	}
	if n < len(index) {
		return nil, fmt.Errorf("KVM_GET_MSRS: %#x is unknown", index[n])
	}
	values := make([]uint64, n)
	for i := range values {
		values[i] = arg.entries[i].Data
	}
	return values, nil
}

// SetMSRs writes MSRs, in order.
func (v *VCPU) SetMSRs(entries ...MSREntry) error {
	if len(entries) > maxMSREntries {
		return fmt.Errorf("KVM_SET_MSRS: %d entries", len(entries))
	}
	arg := &msrs{nmsrs: uint32(len(entries))}
	copy(arg.entries[:], entries)
	n, err := ioctlPtr(v.fd, "KVM_SET_MSRS", reqSetMSRs, arg)
	if err != nil {
		return err
	}
	if n < len(entries) {
		return fmt.Errorf("KVM_SET_MSRS: %#x is refused", entries[n].Index)
	}
	return nil
}

// MPState reads the multiprocessing state.
func (v *VCPU) MPState() (uint32, error) {
	var s mpState
	_, err := ioctlPtr(v.fd, "KVM_GET_MP_STATE", reqGetMPState, &s)
	return s.state, err
}

// SetMPState writes the multiprocessing state.
func (v *VCPU) SetMPState(state uint32) error {
	_, err := ioctlPtr(v.fd, "KVM_SET_MP_STATE", reqSetMPState, &mpState{state: state})
	return err
}

// TSCKHz is the frequency of the guest's TSC.
func (v *VCPU) TSCKHz() (int, error) {
	return ioctl(v.fd, "KVM_GET_TSC_KHZ", reqGetTSCKHz, 0)
}

// KVMClockCtrl tells the guest that it was stopped, so that its lockup
// detectors forgive the gap. EINVAL means that it does not use kvm-clock.
func (v *VCPU) KVMClockCtrl() error {
	_, err := ioctl(v.fd, "KVM_KVMCLOCK_CTRL", reqKVMClockCtrl, 0)
	return err
}
