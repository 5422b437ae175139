package tsi

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// controlConn is the control connection.
type controlConn struct {
	conn Conn

	mu   sync.Mutex
	cond sync.Cond
	done uint32 // bytes handled, of those received
	over bool
}

// serveControl serves the control connection, which begins with m.
func (s *Server) serveControl(c Conn, m *message) {
	cc := &controlConn{conn: c, done: headerSize}
	cc.cond.L = &cc.mu
	// The guest has one. It opens another one when that broke, of which nothing
	// may have been heard here yet.
	s.mu.Lock()
	old := s.control
	s.control = cc
	s.mu.Unlock()
	if old != nil {
		old.conn.Abort()
	}
	var err error
	errno := unix.Errno(0)
	if m.value != version {
		errno = unix.EPROTONOSUPPORT
	}
	if m.flags&flagNoReply == 0 {
		err = cc.reply(m, errno, &address{}, &address{}, nil)
	}
	if errno != 0 && err == nil {
		err = errValue
	}
	var b [smallFrame]byte
	for err == nil {
		var m message
		if m, err = readFrame(c, b[:]); err == nil {
			err = s.controlRequest(cc, &m)
			cc.handled(headerSize + uint32(bodyLength(&m)))
		}
	}
	s.mu.Lock()
	if s.control == cc {
		s.control = nil
	}
	s.mu.Unlock()
	cc.end()
	s.refuse(c, m, err)
}

// bodyLength has the length of the body of a request on the control connection.
func bodyLength(m *message) int {
	if m.op == opSetsockopt || m.op == opGetsockopt {
		return 8 + len(m.data)
	}
	return 0
}

func (s *Server) controlRequest(cc *controlConn, m *message) error {
	s.mu.Lock()
	k := s.sockets[m.id]
	s.mu.Unlock()
	var errno unix.Errno
	var data []byte
	switch m.op {
	case opSetsockopt:
		if errno = unix.ENOTCONN; k != nil {
			errno = k.setOption(m.level, m.name, m.data)
		}
	case opGetsockopt:
		switch {
		case k != nil:
			data, errno = k.getOption(m.level, m.name, int(m.value))
		case m.level == unix.SOL_SOCKET && m.name == unix.SO_ERROR:
			data = s.lastError(m.id, int(m.value))
		default:
			errno = unix.ENOTCONN
		}
	case opAbort:
		if k != nil {
			k.setAbort()
		}
	default:
		return errOp
	}
	if m.flags&flagNoReply != 0 {
		if errno != 0 {
			s.counters.dropped.Add(1)
		}
		return nil
	}
	var local, peer address
	if k != nil {
		local, peer = k.names()
	}
	return cc.reply(m, errno, &local, &peer, data)
}

// lastError has SO_ERROR of a socket that is gone.
func (s *Server) lastError(id uint32, room int) []byte {
	s.mu.Lock()
	e, ok := s.graves.take(id)
	s.mu.Unlock()
	if !ok {
		e = unix.ECONNRESET
	}
	b := []byte{byte(e), byte(e >> 8), 0, 0}
	return b[:min(room, len(b))]
}

func (cc *controlConn) reply(m *message, errno unix.Errno, local, peer *address, data []byte) error {
	if errno != 0 {
		data = nil
	}
	var b [headerSize + 2*addressSize + smallFrame]byte
	_, err := cc.conn.Write(appendReply(b[:0], m.op, 0, m.id, uint32(errno), local, peer, data))
	return err
}

// handled notes that n more bytes of the connection were dealt with.
func (cc *controlConn) handled(n uint32) {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	cc.done += n
	cc.cond.Broadcast()
}

func (cc *controlConn) end() {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	cc.over = true
	cc.cond.Broadcast()
}

// controlTimeout bounds the wait for what the guest has said on the control
// connection: a guest that takes no replies holds it up.
const controlTimeout = time.Second

// awaitControl waits until what the guest has sent on the control connection so
// far was dealt with: an ABORT there comes before the end of the socket's own
// connection, which another goroutine handles.
func (s *Server) awaitControl() {
	s.mu.Lock()
	cc := s.control
	s.mu.Unlock()
	if cc == nil {
		return
	}
	want := cc.conn.Received()
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if int32(cc.done-want) >= 0 || cc.over {
		return
	}
	late := false
	t := time.AfterFunc(controlTimeout, func() {
		cc.mu.Lock()
		defer cc.mu.Unlock()
		late = true
		cc.cond.Broadcast()
	})
	defer t.Stop()
	for int32(cc.done-want) < 0 && !cc.over && !late {
		cc.cond.Wait()
	}
}
