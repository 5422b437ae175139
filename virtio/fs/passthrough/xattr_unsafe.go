package passthrough

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xattrArgs is struct xattr_args on a 64-bit machine.
type xattrArgs struct {
	value *byte
	size  uint32
	flags uint32
}

func getxattrat(dir int, path, name string, dest []byte) (int, error) {
	return xattrCall(unix.SYS_GETXATTRAT, dir, path, name, dest, 0)
}

func setxattrat(dir int, path, name string, data []byte, flags int) error {
	_, err := xattrCall(unix.SYS_SETXATTRAT, dir, path, name, data, flags)
	return err
}

func xattrCall(trap uintptr, dir int, path, name string, value []byte, flags int) (int, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	np, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	args := &xattrArgs{value: unsafe.SliceData(value), size: uint32(len(value)), flags: uint32(flags)}
	n, _, errno := unix.Syscall6(trap, uintptr(dir), uintptr(unsafe.Pointer(p)), 0,
		uintptr(unsafe.Pointer(np)), uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
	runtime.KeepAlive(args)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func listxattrat(dir int, path string, dest []byte) (int, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), 0,
		uintptr(unsafe.Pointer(unsafe.SliceData(dest))), uintptr(len(dest)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func removexattrat(dir int, path, name string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	np, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_REMOVEXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), 0,
		uintptr(unsafe.Pointer(np)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
