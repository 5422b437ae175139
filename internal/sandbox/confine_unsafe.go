package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These act on every thread: the kernel keeps privileges per thread, and the Go
// runtime has several by the time any code of ours runs.

func setNoNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", os.NewSyscallError("prctl", errno))
	}
	return nil
}

// secbitNoRoot and its lock: a program executed as root would gain nothing by
// that, so the bounding set needs no clearing capability by capability.
const secbitNoRoot, secbitNoRootLocked = 1 << 0, 1 << 1

// dropCapabilities leaves keep in the effective and permitted sets.
func dropCapabilities(keep []uint) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secbitNoRoot|secbitNoRootLocked, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("PR_SET_SECUREBITS: %w", os.NewSyscallError("prctl", errno))
	}
	for capability := uint(0); capability <= unix.CAP_LAST_CAP; capability++ {
		_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0, 0)
		if errno == unix.EINVAL {
			break // a kernel with fewer capabilities
		}
		if errno != 0 {
			return fmt.Errorf("PR_CAPBSET_DROP: %w", os.NewSyscallError("prctl", errno))
		}
	}
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := new([2]unix.CapUserData)
	for _, capability := range keep {
		data[capability/32].Effective |= 1 << (capability % 32)
		data[capability/32].Permitted |= 1 << (capability % 32)
	}
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(data)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}
