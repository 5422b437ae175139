package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// holdVM keeps a VM with a processor that never runs, as long as this process
// lives. With a host's first VM and after its last one, and likewise with local
// APICs that are disabled, KVM and the scheduler patch their own code. QEMU's TCG
// may then execute a breakpoint that another processor has taken away already,
// of which the host's kernel dies ("Oops: int3").
func holdVM() error {
	// The ioctls of <linux/kvm.h> without arguments.
	const kvmCreateIRQChip, kvmCreateVCPU = 0xae60, 0xae41
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer kvm.Close()
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), kvmCreateVM)
	if err != nil {
		return fmt.Errorf("create a VM: %w", err)
	}
	if _, err := unix.IoctlRetInt(vm, kvmCreateIRQChip); err != nil {
		return fmt.Errorf("create an interrupt chip: %w", err)
	}
	vcpu, err := unix.IoctlRetInt(vm, kvmCreateVCPU)
	if err != nil {
		return fmt.Errorf("create a vCPU: %w", err)
	}
	unix.CloseOnExec(vm)
	unix.CloseOnExec(vcpu)
	return nil
}
