package tsi

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// serveStream serves a SOCK_STREAM connection from the guest.
func (s *Server) serveStream(c Conn) {
	m, err := s.first(c)
	if err != nil {
		s.refuse(c, &m, err)
		return
	}
	e := &endpoint{srv: s, conn: c}
	switch m.op {
	case opControl:
		s.serveControl(c, &m)
		return
	case opAttach:
		err = e.attach(&m)
	case opSocket:
		if err = e.open(&m, unix.SOCK_STREAM); err == nil {
			err = e.serve()
		}
	default:
		err = errOp
	}
	if err != nil {
		s.refuse(c, &m, err)
	}
	e.finish()
}

// refuse ends a connection with which something is wrong: it broke the
// protocol, or is over.
func (s *Server) refuse(c Conn, m *message, err error) {
	switch {
	case isProtocol(err):
		s.malformed(c, m, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.malformed(c, m, errors.New("no message in time"))
	default:
		c.Close()
	}
}

func isProtocol(err error) bool {
	for _, e := range []error{errLength, errOp, errFlags, errValue, errPadding, errAddress, errID} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serve handles the messages of a TCP socket until it is connected, and then
// carries its data.
func (e *endpoint) serve() error {
	var l *listener
	defer func() {
		if l != nil {
			l.close()
		}
	}()
	var b [smallFrame]byte
	for {
		m, err := readFrame(e.conn, b[:])
		if err != nil {
			return err
		}
		handled, err := e.request(&m)
		if err != nil {
			return err
		}
		if handled {
			continue
		}
		switch m.op {
		case opListen:
			if e.sock.isLocal() {
				err = e.answer(&m, flagLocal, 0, nil)
				break
			}
			var errno unix.Errno
			if l == nil {
				if errno = e.sock.control(func(fd int) unix.Errno { return listen(fd, int(m.value)) }); errno == 0 {
					l = e.listen(int(m.value))
				}
			} else {
				errno = l.relisten(int(m.value))
			}
			if err = e.answer(&m, 0, errno, nil); err == nil && errno == 0 {
				l.start()
			}
		case opConnect:
			if m.flags != 0 {
				return errFlags // its reply begins the data
			}
			var errno unix.Errno
			if errno, err = e.connect(&m); err != nil {
				return err
			}
			if err = e.answer(&m, 0, errno, nil); err == nil && errno == 0 {
				e.srv.counters.connected.Add(1)
				e.relay()
				return nil
			}
			if errno != 0 {
				e.srv.counters.failed.Add(1)
			}
		default:
			return errOp
		}
		if err != nil {
			return err
		}
	}
}

// connect connects the socket. The error is that of the guest's connection: it
// closed it, which cancels, or sent what it must not.
func (e *endpoint) connect(m *message) (unix.Errno, error) {
	k, a := e.sock, &m.addr
	if a.family == familyNone {
		return unix.EAFNOSUPPORT, nil
	}
	if k.isLocal() && !isLoopback(a.addr()) {
		return unix.EINVAL, nil // as from the loopback device
	}
	if errno := k.permits(a); errno != 0 {
		return errno, nil
	}
	s := newSockaddr(a)
	if errno := k.connect(&s); errno != unix.EINPROGRESS {
		return errno, nil
	}
	if errno := k.connect(&s); errno != unix.EINPROGRESS {
		return errno, nil // no need to wait: most connections over loopback
	}
	// A connect(2) that does not wait learns so from a reply of its own.
	if err := e.answer(m, 0, unix.EINPROGRESS, nil); err != nil {
		return 0, err
	}
	return e.awaitConnected(&s)
}

// connect begins to connect the socket, or looks how far that is. Asking in this
// way leaves the socket ready for another attempt when one fails.
func (k *socket) connect(s *sockaddr) unix.Errno {
	errno := k.control(func(fd int) unix.Errno { return connect(fd, s) })
	if errno == unix.EALREADY || errno == unix.EINTR {
		errno = unix.EINPROGRESS
	}
	return errno
}

// awaitConnected waits for the connection, as long as the guest does.
func (e *endpoint) awaitConnected(s *sockaddr) (unix.Errno, error) {
	k := e.sock
	// The guest is silent meanwhile, unless it closes the connection.
	var heard error
	var watch sync.WaitGroup
	watch.Go(func() {
		var b [1]byte
		n, err := e.conn.Read(b[:])
		if n > 0 {
			err = errOp
		}
		heard = err
		k.file.SetWriteDeadline(past)
	})
	errno := unix.EINPROGRESS
	err := k.raw.Write(func(uintptr) bool {
		errno = k.connect(s)
		return errno != unix.EINPROGRESS
	})
	e.conn.SetReadDeadline(past)
	watch.Wait()
	k.file.SetWriteDeadline(time.Time{})
	if !errors.Is(heard, os.ErrDeadlineExceeded) {
		return 0, heard
	}
	e.conn.SetReadDeadline(time.Time{})
	if err != nil {
		return 0, err
	}
	return errno, nil
}

// attach handles ATTACH: the connection takes one that a listener announced.
func (e *endpoint) attach(m *message) error {
	if m.id == 0 {
		return errID
	}
	if m.flags != 0 {
		return errFlags
	}
	a := e.srv.take(m.value)
	e.id = m.id
	if a == nil {
		return e.answer(m, 0, unix.ECONNABORTED, nil)
	}
	e.sock = a.sock
	if !e.srv.register(e.sock, m.id) {
		e.sock.setAbort()
		e.sock.close()
		e.sock = nil
		return errID
	}
	if err := e.answer(m, 0, 0, nil); err != nil {
		e.sock.setAbort()
		return err
	}
	e.srv.counters.accepted.Add(1)
	e.relay()
	return nil
}
