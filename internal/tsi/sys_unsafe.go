package tsi

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are the socket calls on raw socket addresses and with the kernel's own
// errno: package unix has no AF_UNSPEC, no flow information and no option of
// any size.

// sockaddr is a struct sockaddr_in or sockaddr_in6 as the kernel has it.
type sockaddr struct {
	b [28]byte
	n uint32 // bytes of b in use
}

const (
	sockaddrInet  = 16
	sockaddrInet6 = 28
)

func newSockaddr(a *address) sockaddr {
	var s sockaddr
	binary.NativeEndian.PutUint16(s.b[:], a.family)
	binary.BigEndian.PutUint16(s.b[2:], a.port)
	switch a.family {
	case familyInet:
		copy(s.b[4:8], a.ip[:])
		s.n = sockaddrInet
	case familyInet6:
		binary.BigEndian.PutUint32(s.b[4:], a.flowinfo)
		copy(s.b[8:24], a.ip[:])
		binary.NativeEndian.PutUint32(s.b[24:], a.scope)
		s.n = sockaddrInet6
	default: // AF_UNSPEC
		s.n = sockaddrInet
	}
	return s
}

// address has s; none if it is not an Internet address.
func (s *sockaddr) address() address {
	a := address{family: binary.NativeEndian.Uint16(s.b[:]), port: binary.BigEndian.Uint16(s.b[2:])}
	switch {
	case a.family == familyInet && s.n >= sockaddrInet:
		copy(a.ip[:4], s.b[4:8])
	case a.family == familyInet6 && s.n >= sockaddrInet6:
		a.flowinfo = binary.BigEndian.Uint32(s.b[4:])
		copy(a.ip[:], s.b[8:24])
		a.scope = binary.NativeEndian.Uint32(s.b[24:])
	default:
		return address{}
	}
	return a
}

func bind(fd int, s *sockaddr) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(s.n))
	return e
}

func connect(fd int, s *sockaddr) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(s.n))
	return e
}

func listen(fd, backlog int) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_LISTEN, uintptr(fd), uintptr(backlog), 0)
	return e
}

func shutdown(fd, how int) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return e
}

// localAddress and peerAddress are none when there is none.
func localAddress(fd int) address { return nameOf(unix.SYS_GETSOCKNAME, fd) }
func peerAddress(fd int) address  { return nameOf(unix.SYS_GETPEERNAME, fd) }

func nameOf(call uintptr, fd int) address {
	s := sockaddr{n: sockaddrInet6}
	_, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(unsafe.Pointer(&s.n)))
	if e != 0 {
		return address{}
	}
	return s.address()
}

// accept takes a connection; its socket does not block.
func accept(fd int) (int, address, unix.Errno) {
	s := sockaddr{n: sockaddrInet6}
	n, _, e := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(unsafe.Pointer(&s.n)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, address{}, e
	}
	return int(n), s.address(), 0
}

func setsockopt(fd int, level, name uint32, value []byte) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	return e
}

func setInt(fd int, level, name uint32, v int) unix.Errno {
	return setsockopt(fd, level, name, binary.NativeEndian.AppendUint32(nil, uint32(v)))
}

// getsockopt fills value and returns how much of it.
func getsockopt(fd int, level, name uint32, value []byte) (int, unix.Errno) {
	n := uint32(len(value))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return 0, e
	}
	return min(int(n), len(value)), 0
}

// socketError takes SO_ERROR.
func socketError(fd int) unix.Errno {
	var b [4]byte
	if _, e := getsockopt(fd, unix.SOL_SOCKET, unix.SO_ERROR, b[:]); e != 0 {
		return e
	}
	return unix.Errno(binary.NativeEndian.Uint32(b[:]))
}

// recvmsg receives a datagram into data, where it came from into s, and its
// control messages into control, of which it returns the length.
func recvmsg(fd int, data []byte, s *sockaddr, control []byte, flags int) (n, controlLen, got int, e unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(data)}
	iov.SetLen(len(data))
	h := unix.Msghdr{Name: &s.b[0], Namelen: uint32(len(s.b)), Iov: &iov, Control: unsafe.SliceData(control)}
	h.SetIovlen(1)
	h.SetControllen(len(control))
	r, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), uintptr(flags))
	runtime.KeepAlive(data)
	runtime.KeepAlive(control)
	if e != 0 {
		return 0, 0, 0, e
	}
	s.n = min(h.Namelen, uint32(len(s.b)))
	return int(r), int(h.Controllen), int(h.Flags), 0
}

// sendmsg sends data as one datagram, to s if that is not nil.
func sendmsg(fd int, data []byte, s *sockaddr, control []byte) unix.Errno {
	iov := unix.Iovec{Base: unsafe.SliceData(data)}
	iov.SetLen(len(data))
	var h unix.Msghdr
	if s != nil {
		h.Name, h.Namelen = &s.b[0], s.n
	}
	h.Iov = &iov
	h.SetIovlen(1)
	if len(control) > 0 {
		h.Control = unsafe.SliceData(control)
		h.SetControllen(len(control))
	}
	_, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	runtime.KeepAlive(data)
	runtime.KeepAlive(control)
	return e
}

// maxVec bounds the slices of one readv or writev.
const maxVec = 64

// readv and writev move bytes between a stream socket and slices.
func readv(fd int, bufs [][]byte) (int, unix.Errno) {
	return moveVec(unix.SYS_RECVMSG, fd, bufs)
}

func writev(fd int, bufs [][]byte) (int, unix.Errno) {
	return moveVec(unix.SYS_SENDMSG, fd, bufs)
}

func moveVec(call uintptr, fd int, bufs [][]byte) (int, unix.Errno) {
	var iov [maxVec]unix.Iovec
	n := 0
	for _, b := range bufs {
		if n == maxVec {
			break
		}
		if len(b) > 0 {
			iov[n].Base = unsafe.SliceData(b)
			iov[n].SetLen(len(b))
			n++
		}
	}
	h := unix.Msghdr{Iov: &iov[0]}
	h.SetIovlen(n)
	for {
		r, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		runtime.KeepAlive(bufs)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}
