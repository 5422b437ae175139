package tsi

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// Buffers for messages: most are small.
const smallMessage = 2 << 10

var (
	smallMessages = sync.Pool{New: func() any { b := make([]byte, smallMessage); return &b }}
	largeMessages = sync.Pool{New: func() any { b := make([]byte, maxMessage); return &b }}
)

func messageBuffer(n int) (*[]byte, *sync.Pool) {
	pool := &largeMessages
	if n <= smallMessage {
		pool = &smallMessages
	}
	return pool.Get().(*[]byte), pool
}

// datagram is a UDP or ICMP echo socket.
type datagram struct {
	endpoint
	port    atomic.Uint32 // local; 0: not known
	recverr atomic.Bool   // the guest has asked for all errors
	peer    bool          // connected
	heard   *sources      // nil: nobody need be remembered
}

// serveDatagram serves a SOCK_SEQPACKET connection from the guest.
func (s *Server) serveDatagram(c Conn) {
	d := &datagram{endpoint: endpoint{srv: s, conn: c}}
	if s.policy != nil && s.policy.loopback().Access != spec.AccessAllow {
		d.heard = &sources{}
	}
	var receiver sync.WaitGroup
	c.SetReadDeadline(time.Now().Add(s.firstTimeout))
	var m message
	err := d.next(func(first *message) (err error) {
		m = *first
		c.SetReadDeadline(time.Time{})
		if m.op != opSocket {
			return errOp
		}
		return d.open(&m, unix.SOCK_DGRAM)
	})
	if err == nil && d.sock != nil {
		s.counters.datagrams.Add(1)
		defer s.counters.datagrams.Add(-1)
		d.setUp()
		c.OnEnd(func(bool) { d.sock.file.SetDeadline(past) })
		receiver.Go(d.receive)
	}
	for err == nil {
		err = d.next(func(next *message) error {
			m = *next
			return d.handle(&m)
		})
	}
	m.data = nil
	s.refuse(c, &m, err)
	d.finish()
	receiver.Wait()
}

// next reads a message and has f handle it.
func (d *datagram) next(f func(*message) error) error {
	n, err := d.conn.MessageSize()
	if err != nil {
		return err
	}
	if n > maxMessage {
		return errLength
	}
	buf, pool := messageBuffer(n)
	defer pool.Put(buf)
	if n, _, err = d.conn.ReadMessage(*buf); err != nil {
		if errors.Is(err, io.ErrShortBuffer) {
			err = errLength
		}
		return err
	}
	m, err := parse((*buf)[:n])
	if err != nil {
		return err
	}
	return f(&m)
}

// setUp has the kernel tell what DATA says of a datagram.
func (d *datagram) setUp() {
	d.sock.control(func(fd int) unix.Errno {
		setInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
		setInt(fd, unix.SOL_IP, unix.IP_RECVTOS, 1)
		setInt(fd, unix.SOL_IP, unix.IP_RECVTTL, 1)
		if d.sock.family == familyInet6 {
			setInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
			setInt(fd, unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1)
			setInt(fd, unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
		}
		return 0
	})
}

func (d *datagram) handle(m *message) error {
	if m.op == opData {
		return d.send(m)
	}
	defer d.port.Store(0) // it may have changed
	if m.op == opSetsockopt && (m.level == unix.SOL_IP && m.name == unix.IP_RECVERR ||
		m.level == unix.SOL_IPV6 && m.name == unix.IPV6_RECVERR) {
		d.recverr.Store(true)
	}
	handled, err := d.request(m)
	if handled || err != nil {
		return err
	}
	k := d.sock
	switch m.op {
	case opConnect:
		errno := unix.Errno(0)
		if m.addr.family != familyNone {
			errno = d.reachable(&m.addr)
		}
		if errno == 0 {
			s := newSockaddr(&m.addr)
			errno = k.control(func(fd int) unix.Errno { return connect(fd, &s) })
			d.peer = m.addr.family != familyNone && (d.peer || errno == 0)
		}
		return d.answer(m, 0, errno, nil)
	case opShutdown:
		return d.answer(m, 0, k.shutdown(int(int32(m.value))), nil)
	case opListen:
		return d.answer(m, 0, unix.EOPNOTSUPP, nil)
	}
	return errOp
}

// reachable says whether policy lets the socket send to a.
func (d *datagram) reachable(a *address) unix.Errno {
	if d.sock.isLocal() && !isLoopback(a.addr()) {
		return unix.EINVAL // as from the loopback device
	}
	if d.heard.has(a) {
		return 0 // an answer
	}
	return d.sock.permits(a)
}

// send sends the datagram of a DATA message.
func (d *datagram) send(m *message) error {
	k := d.sock
	switch {
	case m.id != d.id:
		return errID
	case k == nil || d.sticky != 0: // the next reply says why
		return d.sent(m, 0)
	case len(m.data) > maxPayload:
		return errLength
	}
	var to *sockaddr
	if m.addr.family != familyNone {
		if errno := d.reachable(&m.addr); errno != 0 {
			if errno == unix.ECONNREFUSED && !d.peer {
				errno = 0 // nobody tells the sender, as nobody listens
			}
			return d.sent(m, errno)
		}
		s := newSockaddr(&m.addr)
		to = &s
	}
	v4 := k.family == familyInet || m.addr.addr().Is4In6()
	var space [maxControl]byte
	control := appendControl(space[:0], &m.from, v4, m.tos, m.ttl)
	var errno unix.Errno
	for range 2 { // the first error may be that of an earlier datagram
		err := k.raw.Write(func(fd uintptr) bool {
			errno = sendmsg(int(fd), m.data, to, control)
			return errno != unix.EAGAIN
		})
		if err != nil {
			return err // the connection is over
		}
		if errno == 0 {
			d.srv.counters.datagramsSent.Add(1)
			d.srv.counters.bytesSent.Add(uint64(len(m.data)))
		}
		if err := d.sent(m, errno); err != nil || errno == 0 || m.flags&flagConfirm != 0 {
			return err
		}
	}
	return nil
}

// sent tells the guest what became of a datagram: by a reply if it wants one,
// otherwise of an error only.
func (d *datagram) sent(m *message, errno unix.Errno) error {
	switch {
	case m.flags&flagConfirm != 0:
		return d.answer(m, 0, errno, nil)
	case errno != 0:
		return d.error(errno, &m.addr)
	}
	return nil
}

// error tells the guest of an error; peer is the destination, if known.
func (d *datagram) error(errno unix.Errno, peer *address) error { return d.icmpError(errno, 0, peer) }

// icmpError is error with the type and code of the ICMP message that told it.
func (d *datagram) icmpError(errno unix.Errno, icmp uint16, peer *address) error {
	var b [headerSize + 2*addressSize]byte
	_, err := d.conn.Write(appendEvent(b[:0], opError, icmp, d.id, uint32(errno), &address{}, peer))
	return err
}

// receive carries datagrams and errors to the guest, as fast as the guest gives
// credit; the rest waits in the socket's buffer, and what finds no room there is
// lost.
func (d *datagram) receive() {
	k := d.sock
	for {
		var buf *[]byte
		var n, controlLen int
		var from sockaddr
		var control [maxControl]byte
		var errno unix.Errno
		var failed *asyncError
		err := k.raw.Read(func(fd uintptr) bool {
			if buf == nil {
				buf = largeMessages.Get().(*[]byte)
			}
			n, controlLen, _, errno = recvmsg(int(fd), (*buf)[dataHead:], &from, control[:], unix.MSG_DONTWAIT)
			if errno != 0 && d.recverr.Load() {
				failed = nextError(int(fd))
			}
			if errno != unix.EAGAIN || failed != nil {
				return true
			}
			largeMessages.Put(buf) // none is held while nothing comes
			buf = nil
			return false
		})
		switch {
		case err != nil:
		case failed != nil:
			err = d.icmpError(failed.errno, failed.icmp, &failed.peer)
		case errno == unix.EINTR:
		case errno != 0:
			err = d.error(errno, &address{})
		default:
			err = d.deliver((*buf)[:dataHead+n], &from, control[:controlLen])
		}
		if buf != nil {
			largeMessages.Put(buf)
		}
		if err != nil {
			return
		}
	}
}

// deliver sends the guest a datagram: b has room for the head before it.
func (d *datagram) deliver(b []byte, from *sockaddr, control []byte) error {
	k := d.sock
	remote := from.address()
	a := parseControl(control)
	port := d.port.Load()
	if port == 0 {
		local, _ := k.names()
		port = uint32(local.port)
		d.port.Store(port)
	}
	if a.local.family != familyNone {
		a.local.port = uint16(port)
	}
	d.heard.add(&remote)
	n := len(b) - dataHead
	appendDataHead(b[:0], d.id, &remote, &a.local, a.tos, a.ttl, n)
	if _, err := d.conn.Write(b); err != nil {
		return err
	}
	d.srv.counters.datagramsReceived.Add(1)
	d.srv.counters.bytesReceived.Add(uint64(n))
	return nil
}

// asyncError is an entry of a socket's error queue.
type asyncError struct {
	errno unix.Errno
	icmp  uint16 // type and code
	peer  address
}

// nextError takes an entry from the error queue; nil if it is empty.
func nextError(fd int) *asyncError {
	var data [1]byte
	var to sockaddr
	var control [maxControl]byte
	_, n, _, errno := recvmsg(fd, data[:], &to, control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errno != 0 {
		return nil
	}
	a := parseControl(control[:n])
	if a.err == 0 {
		return nil
	}
	return &asyncError{a.err, a.icmp, to.address()}
}
