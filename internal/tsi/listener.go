package tsi

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxWindow bounds the connections a listener has announced and the guest
	// has not attached yet.
	maxWindow = 64

	// acceptPause is how long a listener waits when descriptors, memory or
	// sockets have run out.
	acceptPause = 100 * time.Millisecond
)

// listener accepts connections ahead of the guest's accept(2).
type listener struct {
	srv  *Server
	sock *socket
	conn Conn

	begin sync.Once
	wg    sync.WaitGroup

	mu     sync.Mutex
	cond   sync.Cond
	window int
	tokens map[uint32]struct{} // announced and not attached
	closed bool
}

// announced is a connection that a listener has accepted and the guest has not
// attached.
type announced struct {
	sock  *socket
	owner *listener
}

func (e *endpoint) listen(backlog int) *listener {
	l := &listener{srv: e.srv, sock: e.sock, conn: e.conn, tokens: make(map[uint32]struct{})}
	l.cond.L = &l.mu
	l.window = window(backlog)
	e.srv.counters.listeners.Add(1)
	return l
}

// window has how many connections may be announced: as listen(2) does, a
// backlog counts as unsigned.
func window(backlog int) int { return int(min(uint64(uint32(backlog))+1, maxWindow)) }

func (l *listener) relisten(backlog int) unix.Errno {
	errno := l.sock.control(func(fd int) unix.Errno { return listen(fd, backlog) })
	if errno == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.window = window(backlog)
		l.cond.Broadcast()
	}
	return errno
}

// start begins to accept; the guest knows by then that it listens.
func (l *listener) start() {
	l.begin.Do(func() { l.wg.Go(l.run) })
}

func (l *listener) run() {
	for l.wait() {
		if l.srv.reserve(false) != 0 {
			l.srv.log.Warn("tsi: connections wait: too many sockets")
			time.Sleep(acceptPause)
			continue
		}
		k, peer, errno := l.accept()
		switch errno {
		case 0:
			if !l.announce(k, &peer) {
				return
			}
			continue
		case unix.EBADF:
			l.srv.release(false)
			return
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			l.srv.log.Warn("tsi: accept", "err", errno)
			time.Sleep(acceptPause)
		}
		// Otherwise an error of the connection that would have been accepted.
		l.srv.release(false)
	}
}

// wait waits for room in the window; it returns false when l is closed.
func (l *listener) wait() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && len(l.tokens) >= l.window {
		l.cond.Wait()
	}
	return !l.closed
}

// accept takes a connection, for which there is a reservation.
func (l *listener) accept() (*socket, address, unix.Errno) {
	var peer address
	var nfd int
	errno := unix.EBADF
	l.sock.raw.Read(func(fd uintptr) bool { // an error leaves EBADF
		nfd, peer, errno = accept(int(fd))
		return errno != unix.EAGAIN
	})
	switch errno {
	case 0:
		k := l.srv.adopt(nfd, l.sock.family, unix.IPPROTO_TCP)
		l.sock.mu.Lock()
		k.linger = l.sock.linger // inherited, as all options are
		l.sock.mu.Unlock()
		return k, peer, 0
	case unix.EAGAIN, unix.EINVAL: // the wait was ended; the socket listens no more
		errno = unix.EBADF
	}
	return nil, address{}, errno
}

// announce tells the guest of a connection; it returns false when l is closed.
func (l *listener) announce(k *socket, peer *address) bool {
	local, _ := k.names()
	token := l.srv.announce(&announced{sock: k, owner: l})
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.tokens[token] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		l.drop(token)
		return false
	}
	var b [headerSize + 2*addressSize]byte
	_, err := l.conn.Write(appendEvent(b[:0], opAccept, 0, l.sock.id, token, &local, peer))
	return err == nil
}

// announce gives an accepted connection a token.
func (s *Server) announce(a *announced) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.nextToken == 0 || s.tokens[s.nextToken] != nil {
		s.nextToken++
	}
	token := s.nextToken
	s.nextToken++
	s.tokens[token] = a
	return token
}

// take has the connection announced with token; nil if there is none, or it was
// taken.
func (s *Server) take(token uint32) *announced {
	s.mu.Lock()
	a := s.tokens[token]
	delete(s.tokens, token)
	s.mu.Unlock()
	if a == nil {
		return nil
	}
	l := a.owner
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tokens, token)
	l.cond.Broadcast()
	return a
}

// drop resets a connection that was announced and not attached.
func (l *listener) drop(token uint32) {
	if a := l.srv.take(token); a != nil {
		a.sock.setAbort()
		a.sock.close()
	}
}

// close ends listening and resets what was announced and not attached.
func (l *listener) close() {
	l.mu.Lock()
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
	l.sock.file.SetReadDeadline(past)
	l.conn.SetWriteDeadline(past)
	l.wg.Wait()
	for {
		l.mu.Lock()
		var token uint32
		for token = range l.tokens {
			break
		}
		l.mu.Unlock()
		if token == 0 {
			break
		}
		l.drop(token)
		l.mu.Lock()
		delete(l.tokens, token)
		l.mu.Unlock()
	}
	l.srv.counters.listeners.Add(-1)
}
