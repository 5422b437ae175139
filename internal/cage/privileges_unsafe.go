package cage

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropCapabilities leaves keep, as far as it was there, in the effective and
// permitted sets of every thread: the kernel keeps them per thread, and the Go
// runtime has several by the time any code of ours runs.
func dropCapabilities(keep []uint) error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := new([2]unix.CapUserData)
	var have [2]unix.CapUserData
	if err := unix.Capget(header, &have[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for _, capability := range keep {
		data[capability/32].Permitted |= 1 << (capability % 32)
	}
	for i := range data {
		data[i].Permitted &= have[i].Permitted
		data[i].Effective = data[i].Permitted
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(data)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}

// lockSecurebits makes user id 0 mean nothing to execve, and capabilities stay
// where they are when a user id changes, on every thread and for good.
func lockSecurebits() error {
	const bits = secbitNoRoot | secbitNoSetuidFixup | secbitNoCapAmbientRaise
	const locks = bits<<1 | secbitKeepCaps<<1
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, bits|locks, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("PR_SET_SECUREBITS: %w", os.NewSyscallError("prctl", errno))
	}
	return nil
}
