package kvm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// VM is a virtual machine.
type VM struct {
	fd      int
	runSize int
}

// Close drops the handle. The machine itself ends when its vCPUs are closed
// too.
func (vm *VM) Close() error {
	if vm.fd < 0 {
		return nil
	}
	fd := vm.fd
	vm.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// CheckExtension gives the value of a capability for this machine.
func (vm *VM) CheckExtension(c Cap) (int, error) {
	return ioctl(vm.fd, "KVM_CHECK_EXTENSION", reqCheckExtension, uintptr(c))
}

// EnableCap enables a capability of the machine.
func (vm *VM) EnableCap(c Cap, args ...uint64) error {
	arg := enableCap{cap: uint32(c)}
	if len(args) > len(arg.args) {
		return fmt.Errorf("KVM_ENABLE_CAP: %d arguments", len(args))
	}
	copy(arg.args[:], args)
	_, err := ioctlPtr(vm.fd, "KVM_ENABLE_CAP", reqEnableCap, &arg)
	return err
}

// SetUserMemoryRegion creates, changes or (with MemorySize 0) deletes a slot.
// The memory at UserspaceAddr must stay mapped as long as the slot exists.
func (vm *VM) SetUserMemoryRegion(r UserspaceMemoryRegion) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_USER_MEMORY_REGION", reqSetUserMemoryRegion, &r)
	return err
}

// SetTSSAddr gives three pages of guest-physical address space to the task
// state segment that VT-x without unrestricted guest mode needs.
func (vm *VM) SetTSSAddr(addr uint64) error {
	_, err := ioctl(vm.fd, "KVM_SET_TSS_ADDR", reqSetTSSAddr, uintptr(addr))
	return err
}

// SetIdentityMapAddr gives one page of guest-physical address space to the
// page table that VT-x without unrestricted guest mode needs.
func (vm *VM) SetIdentityMapAddr(addr uint64) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_IDENTITY_MAP_ADDR", reqSetIdentityMapAddr, &addr)
	return err
}

// MSI is a message signalled interrupt.
type MSI struct {
	Addr uint64
	Data uint32
}

// Route delivers an MSI for a GSI.
type Route struct {
	GSI uint32
	MSI MSI
}

// SetGSIRouting replaces the whole routing table.
func (vm *VM) SetGSIRouting(routes []Route) error {
	if len(routes) > MaxRoutes {
		return fmt.Errorf("KVM_SET_GSI_ROUTING: %d routes", len(routes))
	}
	arg := irqRouting{nr: uint32(len(routes))}
	for i, r := range routes {
		arg.entries[i] = irqRoutingEntry{
			gsi:       r.GSI,
			typ:       irqRoutingMSI,
			addressLo: uint32(r.MSI.Addr),
			addressHi: uint32(r.MSI.Addr >> 32),
			data:      r.MSI.Data,
		}
	}
	_, err := ioctlPtr(vm.fd, "KVM_SET_GSI_ROUTING", reqSetGSIRouting, &arg)
	return err
}

// SignalMSI injects an MSI now.
func (vm *VM) SignalMSI(m MSI) error {
	arg := msi{addressLo: uint32(m.Addr), addressHi: uint32(m.Addr >> 32), data: m.Data}
	_, err := ioctlPtr(vm.fd, "KVM_SIGNAL_MSI", reqSignalMSI, &arg)
	return err
}

// AssignIRQFD makes every signal of an eventfd raise a GSI.
func (vm *VM) AssignIRQFD(eventfd int, gsi uint32) error {
	_, err := ioctlPtr(vm.fd, "KVM_IRQFD", reqIRQFD, &irqfd{fd: uint32(eventfd), gsi: gsi})
	return err
}

// DeassignIRQFD undoes AssignIRQFD and waits until no signal is in flight.
func (vm *VM) DeassignIRQFD(eventfd int, gsi uint32) error {
	_, err := ioctlPtr(vm.fd, "KVM_IRQFD", reqIRQFD,
		&irqfd{fd: uint32(eventfd), gsi: gsi, flags: irqfdFlagDeassign})
	return err
}

// AssignIOEventFD makes every 4-byte store of value to the guest-physical
// address addr signal an eventfd instead of leaving KVM_RUN.
func (vm *VM) AssignIOEventFD(eventfd int, addr uint64, value uint32) error {
	_, err := ioctlPtr(vm.fd, "KVM_IOEVENTFD", reqIOEventFD, &ioeventfd{
		datamatch: uint64(value), addr: addr, len: 4, fd: int32(eventfd), flags: ioeventfdFlagDatamatch,
	})
	return err
}

// DeassignIOEventFD undoes AssignIOEventFD.
func (vm *VM) DeassignIOEventFD(eventfd int, addr uint64, value uint32) error {
	_, err := ioctlPtr(vm.fd, "KVM_IOEVENTFD", reqIOEventFD, &ioeventfd{
		datamatch: uint64(value), addr: addr, len: 4, fd: int32(eventfd),
		flags: ioeventfdFlagDatamatch | ioeventfdFlagDeassign,
	})
	return err
}

// CreateVCPU makes the vCPU whose APIC id is id.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctl(vm.fd, "KVM_CREATE_VCPU", reqCreateVCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	run, err := unix.Mmap(fd, 0, vm.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("mmap kvm_run", err)
	}
	return &VCPU{fd: fd, run: run}, nil
}
