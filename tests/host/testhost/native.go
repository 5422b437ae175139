package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The kinds of host, as RUNV_TEST_HOST names them.
const (
	kindNative = "native"
	kindTCG    = "tcg"
)

// chooseKind honours the forced kind, or finds out whether this machine will do.
func chooseKind(forced string) (string, error) {
	switch forced {
	case kindTCG:
		return kindTCG, nil
	case "", kindNative:
		err := nativeKVM()
		if err == nil {
			return kindNative, nil
		}
		if forced == kindNative {
			return "", fmt.Errorf("RUNV_TEST_HOST=native: %w", err)
		}
		return kindTCG, nil
	}
	return "", failf(exitUsage, "RUNV_TEST_HOST=%s: want native or tcg", forced)
}

// The two ioctls it takes to see whether KVM answers; they have no argument.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
)

// nativeKVM says what keeps this machine from running ordinary guests. A
// /dev/kvm alone proves nothing: kvm_pvm has one too.
func nativeKVM() error {
	_, amd := os.Stat("/sys/module/kvm_amd")
	_, intel := os.Stat("/sys/module/kvm_intel")
	if amd != nil && intel != nil {
		return errors.New("neither kvm_amd nor kvm_intel is loaded")
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer kvm.Close()
	version, err := unix.IoctlRetInt(int(kvm.Fd()), kvmGetAPIVersion)
	if err != nil || version != 12 {
		return fmt.Errorf("/dev/kvm has API version %d (%v), want 12", version, err)
	}
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), kvmCreateVM)
	if err != nil {
		return fmt.Errorf("/dev/kvm cannot create a VM: %w", err)
	}
	return os.NewSyscallError("close", unix.Close(vm))
}

func startNative(*options) (*host, error) { return nil, errors.New("not yet") }
func nativeInit([]string) error           { return errors.New("not yet") }
