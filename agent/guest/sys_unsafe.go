package guest

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlAddEntropy is RNDADDENTROPY: struct rand_pool_info has the entropy in
// bits, the size in bytes, and the bytes.
func ioctlAddEntropy(fd int, p []byte) error {
	info := make([]uint32, 2+(len(p)+3)/4)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&info[0])), len(info)*4)
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(p)*8))
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(p)))
	copy(buf[8:], p)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// ioctlReseed is RNDRESEEDCRNG.
func ioctlReseed(fd int) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
