package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl issues a request whose argument is a number. EINTR is retried: only
// KVM_RUN gives it a meaning, and the Go runtime's preemption signal can
// interrupt any call that sleeps.
func ioctl(fd int, op string, req, arg uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, &Error{Op: op, Errno: errno}
		}
	}
}

// ioctlPtr issues a request whose argument is a structure.
func ioctlPtr[T any](fd int, op string, req uintptr, arg *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, &Error{Op: op, Errno: errno}
		}
	}
}

// storeImmediateExit writes kvm_run.immediate_exit atomically, together with
// request_interrupt_window and the padding around it: with the local APIC in
// the kernel these are always zero.
func storeImmediateExit(run []byte, on bool) {
	var v uint32
	if on {
		v = 1 << (8 * runImmediateExit)
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&run[0])), v)
}
