package tsi

import (
	"cmp"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relay carries the bytes of a TCP connection both ways. It holds no buffer:
// bytes go between the socket and the guest's memory, and wait on that side of
// the two from which they come. While nothing is to be done, there is the one
// goroutine that waits for the peer.
type relay struct {
	sock *socket
	conn Conn

	// Of takeNow, which has one caller at a time.
	bufs  [][]byte
	taken int
	write func(fd uintptr)

	// Of toGuest.
	fill   func(bufs [][]byte) (int, error)
	fd     int
	read   func(fd uintptr) bool
	got    int
	failed error

	errno    atomic.Int32  // of a write
	finished atomic.Bool   // the guest sends no more
	peerDone atomic.Bool   // nor does the peer
	patience atomic.Int64  // how long to wait for the peer, when it is above 0
	sent     chan struct{} // closed when all that the guest has sent is dealt with
}

// relay relays until the guest has closed its connection, or the TCP connection
// broke.
func (e *endpoint) relay() {
	k, c := e.sock, e.conn
	e.srv.counters.connections.Add(1)
	defer e.srv.counters.connections.Add(-1)
	r := &relay{sock: k, conn: c, sent: make(chan struct{})}
	r.write = func(fd uintptr) { r.taken = r.writeOnce(int(fd), r.bufs) }
	r.fill = r.fillNow
	r.read = func(fd uintptr) bool {
		r.fd = int(fd)
		r.got, r.failed = c.SendFrom(r.fill)
		return r.failed != error(unix.EAGAIN)
	}

	ended := make(chan struct{})
	orderly := false
	c.OnEnd(func(o bool) {
		orderly = o
		k.file.SetReadDeadline(past) // there is no one left to read for
		close(ended)
	})
	c.Forward(r.takeNow, r.takeRest)
	r.toGuest()
	<-ended
	if !orderly {
		k.setAbort()
	}
	if e.srv.awaitControl(); k.aborts() {
		k.close() // what the guest has sent is not to be delivered
	}
	r.drain(e.srv.drainTimeout)
	<-r.sent
}

// toGuest carries what the peer sends.
func (r *relay) toGuest() {
	k, c := r.sock, r.conn
	for {
		if err := k.raw.Read(r.read); err != nil {
			return // the guest has closed the connection
		}
		errno, isErrno := r.failed.(unix.Errno)
		switch {
		case r.failed == nil && r.got > 0:
			k.srv.counters.bytesReceived.Add(uint64(r.got))
		case r.failed == nil && !r.broken():
			r.peerDone.Store(true)
			c.CloseWrite()
			r.awaitError()
			return
		case r.failed == nil || isErrno:
			r.fail(cmp.Or(errno, unix.Errno(r.errno.Load())))
			c.Abort()
			return
		default:
			return // the guest receives no more
		}
	}
}

// awaitError waits, after the peer's FIN, for the connection to break.
func (r *relay) awaitError() {
	k := r.sock
	var errno unix.Errno
	err := k.raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, 0); err != nil || n == 0 || p[0].Revents&unix.POLLERR == 0 {
			return false
		}
		errno = socketError(int(fd))
		return errno != 0
	})
	if err == nil {
		r.fail(errno)
		r.conn.Abort()
	}
}

// fail notes why the connection broke. That nothing more can be sent is the
// second thing to hear of a connection, unless the peer had sent its FIN.
func (r *relay) fail(errno unix.Errno) {
	if errno == unix.EPIPE && !r.peerDone.Load() {
		errno = unix.ECONNRESET
	}
	r.sock.fail(errno)
}

// broken reports whether an end of file is none: the error of a broken
// connection went to a write, which is how the kernel tells it once.
func (r *relay) broken() bool {
	if r.errno.Load() != 0 {
		return true
	}
	if r.finished.Load() {
		return false // both have sent their FIN, after which the state is the same
	}
	var info [1]byte // tcpi_state
	errno := r.sock.control(func(fd int) unix.Errno {
		_, errno := getsockopt(fd, unix.SOL_TCP, unix.TCP_INFO, info[:])
		return errno
	})
	return errno == 0 && info[0] == unix.BPF_TCP_CLOSE
}

// fillNow reads what has arrived into the guest's memory.
func (r *relay) fillNow(bufs [][]byte) (int, error) {
	n, errno := readv(r.fd, bufs)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// takeNow sends from the guest's memory what the socket has room for.
func (r *relay) takeNow(bufs [][]byte) int {
	if r.errno.Load() != 0 {
		return 0
	}
	r.bufs, r.taken = bufs, 0
	r.sock.raw.Control(r.write) // fails when the socket is closed: nothing is taken
	r.bufs = nil
	return r.taken
}

func (r *relay) writeOnce(fd int, bufs [][]byte) int {
	n, errno := writev(fd, bufs)
	if errno != 0 {
		if errno != unix.EAGAIN {
			r.errno.CompareAndSwap(0, int32(errno))
		}
		return 0
	}
	r.sock.srv.counters.bytesSent.Add(uint64(n))
	return n
}

// takeRest sends what takeNow had to leave, and deals with the end of what the
// guest sends.
func (r *relay) takeRest() {
	k := r.sock
	err := r.conn.WriteBuffered(r)
	errno := unix.Errno(r.errno.Load())
	switch {
	case errno != 0:
		r.fail(errno)
		r.conn.CloseRead() // the guest learns of it with its next send
	case err == nil:
		return
	case isEOF(err):
		r.finished.Store(true)
		k.shutdown(unix.SHUT_WR)
	}
	close(r.sent)
}

// Write implements io.Writer for takeRest: it waits for room in the socket.
func (r *relay) Write(p []byte) (int, error) {
	k := r.sock
	n := 0
	for n < len(p) {
		if patience := r.patience.Load(); patience > 0 {
			k.file.SetWriteDeadline(time.Now().Add(time.Duration(patience)))
		}
		err := k.raw.Write(func(fd uintptr) bool {
			m := 0
			if r.errno.Load() == 0 {
				m = r.writeOnce(int(fd), [][]byte{p[n:]})
			}
			n += m
			return m > 0 || r.errno.Load() != 0
		})
		if err != nil {
			k.setAbort()
			return n, err
		}
		if errno := unix.Errno(r.errno.Load()); errno != 0 {
			return n, errno
		}
	}
	return n, nil
}

// drain makes Write give up, and the close a reset, when the peer takes nothing
// for that long.
func (r *relay) drain(patience time.Duration) {
	r.patience.Store(int64(patience))
	r.sock.file.SetWriteDeadline(time.Now().Add(patience))
}
