package vmm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThreadName names the calling thread for ps and top: at most 15 bytes.
func setThreadName(name string) {
	var b [16]byte
	copy(b[:15], name)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
