package seccomp

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load installs the filter for the calling thread, which needs no_new_privs or
// CAP_SYS_ADMIN.
func (f *Filter) Load() error {
	_, err := f.load(f.flags)
	return err
}

// LoadAll is Load for all threads of the process, at once.
func (f *Filter) LoadAll() error {
	thread, err := f.load(f.flags | unix.SECCOMP_FILTER_FLAG_TSYNC)
	if err == nil && thread != 0 {
		err = fmt.Errorf("seccomp: thread %d has filters that the others do not have", thread)
	}
	return err
}

func (f *Filter) load(flags uintptr) (thread uintptr, err error) {
	program := unix.SockFprog{Len: uint16(len(f.program)), Filter: &f.program[0]}
	thread, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return thread, nil
}
