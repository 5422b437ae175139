package kvm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// System is an open /dev/kvm.
type System struct {
	f *os.File
}

// Open opens the KVM device at path.
func Open(path string) (*System, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return NewSystem(f), nil
}

// NewSystem takes over an open KVM device.
func NewSystem(f *os.File) *System { return &System{f: f} }

// Close closes the device; virtual machines made from it stay.
func (s *System) Close() error { return s.f.Close() }

func (s *System) fd() int { return int(s.f.Fd()) }

// APIVersion asks for the version of the API, which must be [APIVersion].
func (s *System) APIVersion() (int, error) {
	return ioctl(s.fd(), "KVM_GET_API_VERSION", reqGetAPIVersion, 0)
}

// CheckExtension gives the value of a capability, 0 if the kernel lacks it.
func (s *System) CheckExtension(c Cap) (int, error) {
	return ioctl(s.fd(), "KVM_CHECK_EXTENSION", reqCheckExtension, uintptr(c))
}

// SupportedCPUID lists the CPUID leaves the host can give to a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	arg := &cpuid2{nent: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd(), "KVM_GET_SUPPORTED_CPUID", reqGetSupportedCPUID, arg); err != nil {
		return nil, err
	}
	if arg.nent > maxCPUIDEntries {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %d entries", arg.nent)
	}
	return arg.entries[:arg.nent:arg.nent], nil
}

// MSRIndexList lists the MSRs that make up the state of a vCPU.
func (s *System) MSRIndexList() ([]uint32, error) {
	arg := new(msrList)
	arg.nmsrs = uint32(len(arg.indices))
	if _, err := ioctlPtr(s.fd(), "KVM_GET_MSR_INDEX_LIST", reqGetMSRIndexList, arg); err != nil {
		return nil, err
	}
	if int(arg.nmsrs) > len(arg.indices) {
		return nil, fmt.Errorf("KVM_GET_MSR_INDEX_LIST: %d entries", arg.nmsrs)
	}
	return arg.indices[:arg.nmsrs:arg.nmsrs], nil
}

// CreateVM makes a virtual machine without memory, vCPUs or interrupt chips.
func (s *System) CreateVM() (*VM, error) {
	size, err := ioctl(s.fd(), "KVM_GET_VCPU_MMAP_SIZE", reqGetVCPUMmapSize, 0)
	if err != nil {
		return nil, err
	}
	if size < runMinSize {
		return nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %d bytes are too few", size)
	}
	fd, err := ioctl(s.fd(), "KVM_CREATE_VM", reqCreateVM, 0)
	if err != nil {
		return nil, err
	}
	return &VM{fd: fd, runSize: size}, nil
}
