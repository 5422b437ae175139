package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/kvm"
)

// kvmPath is the KVM device.
const kvmPath = "/dev/kvm"

// openKVM opens the KVM device, or says in one line why no VM can run here.
func openKVM() (*os.File, error) {
	f, err := os.OpenFile(kvmPath, os.O_RDWR, 0)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: no such device: load kvm_intel or kvm_amd, and enable virtualization in the firmware or nested virtualization on the outer host; `runv check` tells more", kvmPath)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: permission denied: run as root, or give this container or user access to the device", kvmPath)
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s: there is no KVM behind it: load kvm_intel or kvm_amd; `runv check` tells more", kvmPath)
	default:
		return nil, fmt.Errorf("%w: `runv check` tells more", err)
	}
	api, err := kvm.NewSystem(f).APIVersion()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: not a KVM device: %w", kvmPath, err)
	}
	if api != kvm.APIVersion {
		f.Close()
		return nil, fmt.Errorf("%s: KVM API version %d, this runtime needs %d", kvmPath, api, kvm.APIVersion)
	}
	if err := checkModule(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkModule recognises a KVM that cannot run an ordinary kernel.
func checkModule() error {
	for _, name := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat("/sys/module/" + name); err == nil {
			return nil
		}
	}
	if _, err := os.Stat("/sys/module/kvm_pvm"); err == nil {
		return fmt.Errorf("%s: kvm_pvm cannot run an unmodified guest kernel: use a host with VT-x or AMD-V, or nested virtualization", kvmPath)
	}
	return nil
}
