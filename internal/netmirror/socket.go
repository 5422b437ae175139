package netmirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize holds any datagram of rtnetlink: the kernel makes them of 32 KiB
// at most.
const bufferSize = 64 << 10

// dumpTimeout bounds the wait for the kernel's next answer.
const dumpTimeout = 5 * time.Second

// socket is an rtnetlink socket. It is of one goroutine.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
	seq  uint32
}

// openSocket opens a socket in the network namespace of the calling thread.
// groups are RTMGRP_* to listen to.
func openSocket(groups uint32) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	// Lets the kernel choose the routes by their table. A kernel without it
	// sends them all.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	s := &socket{file: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, bufferSize)}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func (s *socket) Close() error { return s.file.Close() }

// receive has the next datagram from the kernel, until the next call.
func (s *socket) receive() ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		var err error
		waited := s.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), s.buf, 0)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if waited != nil {
			return nil, waited
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		// Other processes may be able to send here as well.
		if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid == 0 {
			return s.buf[:n], nil
		}
	}
}

// errInterrupted: what was listed has changed meanwhile.
var errInterrupted = errors.New("the list changed while it was read")

// dump asks for a list and calls each with the body of every message of the
// kind that is its answer.
func (s *socket) dump(request, answer uint16, header []byte, each func(body []byte)) error {
	s.seq++
	msg := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(header))
	msg = append(msg, header...)
	native := binary.NativeEndian
	native.PutUint32(msg[0:], uint32(len(msg)))
	native.PutUint16(msg[4:], request)
	native.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(msg[8:], s.seq)
	if _, err := s.file.Write(msg); err != nil {
		return err
	}
	interrupted := false
	for {
		if err := s.file.SetReadDeadline(time.Now().Add(dumpTimeout)); err != nil {
			return err
		}
		data, err := s.receive()
		if err != nil {
			return err
		}
		for len(data) > 0 {
			m, rest, err := nextMessage(data)
			if err != nil {
				return err
			}
			data = rest
			if m.seq != s.seq {
				continue // of a list that was given up
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE:
				if interrupted {
					return errInterrupted
				}
				return nil
			case unix.NLMSG_ERROR:
				if len(m.body) < 4 {
					return errMalformed
				}
				if errno := int32(native.Uint32(m.body)); errno != 0 {
					return fmt.Errorf("rtnetlink: %w", unix.Errno(-errno))
				}
			case answer:
				each(m.body)
			}
		}
	}
}

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

var errMalformed = errors.New("malformed netlink message")

// nextMessage takes the first message off a datagram.
func nextMessage(data []byte) (m message, rest []byte, err error) {
	if len(data) < unix.NLMSG_HDRLEN {
		return m, nil, errMalformed
	}
	native := binary.NativeEndian
	size := int(native.Uint32(data))
	if size < unix.NLMSG_HDRLEN || size > len(data) {
		return m, nil, errMalformed
	}
	m = message{
		kind:  native.Uint16(data[4:]),
		flags: native.Uint16(data[6:]),
		seq:   native.Uint32(data[8:]),
		body:  data[unix.NLMSG_HDRLEN:size],
	}
	return m, data[min(align(size), len(data)):], nil
}

// align rounds up to the four bytes of NLMSG_ALIGN, RTA_ALIGN and RTNH_ALIGN.
func align(n int) int { return (n + 3) &^ 3 }
