package seccomp

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load installs the filter for the calling thread, which needs no_new_privs or
// CAP_SYS_ADMIN.
func (f *Filter) Load() error {
	program := unix.SockFprog{Len: uint16(len(f.program)), Filter: &f.program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f.flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
