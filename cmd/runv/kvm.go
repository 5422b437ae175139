package main

import (
	"fmt"
	"os"

	"runv.dev/runv/internal/hostcheck"
	"runv.dev/runv/vmm/kvm"
)

// openKVM opens the KVM device, or says in one line why no VM can run here.
func openKVM() (*os.File, error) {
	f, err := hostcheck.Open()
	if err != nil {
		return nil, fmt.Errorf("%w; `runv check` tells more", err)
	}
	api, err := kvm.NewSystem(f).APIVersion()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("/dev/kvm is not a KVM device: %w; `runv check` tells more", err)
	}
	if api != kvm.APIVersion {
		f.Close()
		return nil, fmt.Errorf("/dev/kvm has version %d of the KVM API, this runtime needs %d", api, kvm.APIVersion)
	}
	return f, nil
}
