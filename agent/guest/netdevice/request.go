package netdevice

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// request is an rtnetlink message being written.
type request []byte

var native = binary.NativeEndian

// newRequest begins a message with the fixed part of its kind.
func newRequest(kind, flags uint16, fixed []byte) request {
	r := make(request, unix.NLMSG_HDRLEN, 256)
	native.PutUint16(r[4:], kind)
	native.PutUint16(r[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return append(r, fixed...)
}

func (r *request) bytes(kind uint16, value []byte) {
	*r = appendAttribute(*r, kind, value)
}

func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, kind)
	return pad(append(b, value...))
}

// pad fills up to the four bytes of RTA_ALIGN.
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (r *request) number(kind uint16, value uint32) {
	r.bytes(kind, native.AppendUint32(nil, value))
}

func (r *request) byte(kind uint16, value uint32) { r.bytes(kind, []byte{byte(value)}) }

func (r *request) text(kind uint16, value string) { r.bytes(kind, append([]byte(value), 0)) }

// socket is an rtnetlink socket for changes.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// answerTimeout bounds the wait for the kernel, which answers at once.
const answerTimeout = 10 * time.Second

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("rtnetlink", err)
	}
	return &socket{fd: fd, buf: make([]byte, 16<<10)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

var errAnswer = errors.New("malformed answer from rtnetlink")

// do has the kernel carry a request out.
func (s *socket) do(r request) error {
	s.seq++
	native.PutUint32(r[0:], uint32(len(r)))
	native.PutUint32(r[8:], s.seq)
	if err := unix.Sendto(s.fd, r, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		if n < unix.NLMSG_HDRLEN+4 || native.Uint16(s.buf[4:]) != unix.NLMSG_ERROR {
			return errAnswer
		}
		if native.Uint32(s.buf[8:]) != s.seq {
			continue
		}
		if errno := int32(native.Uint32(s.buf[unix.NLMSG_HDRLEN:])); errno != 0 {
			return unix.Errno(-errno)
		}
		return nil
	}
}
