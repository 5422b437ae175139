package tsi

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// endpoint is the messages' side of a connection that stands for a socket.
type endpoint struct {
	srv    *Server
	conn   Conn
	sock   *socket    // nil: there is none
	id     uint32     // of the socket
	sticky unix.Errno // of requests without a reply, for the next reply
	out    []byte     // reused
}

// readFrame reads a message from a STREAM connection. small is used when it is
// large enough.
func readFrame(r io.Reader, small []byte) (message, error) {
	if _, err := io.ReadFull(r, small[:headerSize]); err != nil {
		return message{}, err
	}
	n, err := frameLength(small)
	if err != nil {
		return message{op: op(binary.LittleEndian.Uint16(small[4:]))}, err
	}
	b := small
	if n > len(b) {
		b = append(make([]byte, 0, n), small[:headerSize]...)
	}
	b = b[:n]
	if _, err := io.ReadFull(r, b[headerSize:]); err != nil {
		return message{}, err
	}
	return parse(b)
}

// smallFrame is the size that most messages have room in.
const smallFrame = 64

// first reads the first message of a STREAM connection, which does not stay
// silent for ever.
func (s *Server) first(c Conn) (message, error) {
	c.SetReadDeadline(time.Now().Add(s.firstTimeout))
	var b [smallFrame]byte
	m, err := readFrame(c, b[:])
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	return m, err
}

// open handles SOCKET. It returns an error if the message is not allowed.
func (e *endpoint) open(m *message, typ uint16) error {
	switch {
	case e.id != 0:
		return errOp // a second one
	case m.id == 0:
		return errID
	case m.typ != typ:
		return errValue
	}
	e.id = m.id
	var errno unix.Errno
	e.sock, errno = e.srv.newSocket(m.family, m.typ, m.value)
	if errno == 0 && !e.srv.register(e.sock, m.id) {
		e.sock.close()
		e.sock = nil
		return errID
	}
	return e.answer(m, 0, errno, nil)
}

// request handles what a socket of either type can be asked. handled is false
// if it is something else.
func (e *endpoint) request(m *message) (handled bool, err error) {
	if m.id != e.id {
		return false, errID
	}
	k := e.sock
	var flags uint16
	var data []byte
	errno := unix.Errno(0)
	switch m.op {
	case opBind, opSetsockopt, opGetsockopt:
	default:
		if k != nil && e.sticky == 0 {
			return false, nil
		}
	}
	switch {
	case e.sticky != 0 || k == nil: // answer says so
	case m.op == opBind:
		var local bool
		if local, errno = k.bind(&m.addr); local {
			flags = flagLocal
		}
	case m.op == opSetsockopt:
		errno = k.setOption(m.level, m.name, m.data)
	case m.op == opGetsockopt:
		data, errno = k.getOption(m.level, m.name, int(m.value))
	}
	return true, e.answer(m, flags, errno, data)
}

// answer replies to a request, or keeps its error for the next reply.
func (e *endpoint) answer(m *message, flags uint16, errno unix.Errno, data []byte) error {
	if e.sock == nil && errno == 0 {
		errno = unix.EBADF
	}
	if e.sticky != 0 {
		errno = e.sticky
	}
	if m.flags&flagNoReply != 0 {
		e.sticky = errno
		return nil
	}
	e.sticky = 0
	if errno != 0 {
		flags, data = 0, nil
	}
	var local, peer address
	if e.sock != nil {
		local, peer = e.sock.names()
	}
	e.out = appendReply(e.out[:0], m.op, flags, m.id, uint32(errno), &local, &peer, data)
	_, err := e.conn.Write(e.out)
	return err
}

// finish ends the socket and its connection.
func (e *endpoint) finish() {
	if k := e.sock; k != nil {
		k.close()
		e.srv.unregister(k)
	}
	e.conn.Close()
}

// isEOF reports whether err says that the guest sends no more.
func isEOF(err error) bool { return errors.Is(err, io.EOF) }
