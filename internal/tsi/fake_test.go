package tsi

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fakeConn is a Conn in memory; a guest without a device is at its other end.
type fakeConn struct {
	packets bool

	mu         sync.Mutex
	cond       sync.Cond
	in         [][]byte // of packets: messages
	received   uint32
	credit     int // bytes that the guest takes
	shut       bool
	over       bool
	orderly    bool
	closed     bool // by the server
	onEnd      func(bool)
	take       func([][]byte) int
	rest       func()
	forwarding bool

	rdeadline, wdeadline time.Time
}

func newFakeConn(packets bool) *fakeConn {
	c := &fakeConn{packets: packets, credit: 1 << 16}
	c.cond.L = &c.mu
	return c
}

// The guest's side.

func (c *fakeConn) guestWrite(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.shut || len(b) == 0 {
		return
	}
	c.received += uint32(len(b))
	if c.take != nil && !c.forwarding {
		n := c.take([][]byte{b[:len(b)/2], b[len(b)/2:]})
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
	if len(c.in) < 1000 {
		c.in = append(c.in, b)
	}
	c.startRest()
	c.cond.Broadcast()
}

func (c *fakeConn) guestShutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	c.startRest()
	c.cond.Broadcast()
}

func (c *fakeConn) guestRead(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit += n
	c.cond.Broadcast()
}

func (c *fakeConn) end(orderly bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(orderly)
}

func (c *fakeConn) endLocked(orderly bool) {
	if c.over {
		return
	}
	c.over, c.orderly = true, orderly
	if c.onEnd != nil {
		go c.onEnd(orderly)
	}
	c.startRest()
	c.cond.Broadcast()
}

func (c *fakeConn) startRest() {
	if c.rest != nil && !c.forwarding {
		c.forwarding = true
		go c.rest()
	}
}

// The server's side.

func passed(t time.Time) bool { return !t.IsZero() && time.Now().After(t) }

func (c *fakeConn) readError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case passed(c.rdeadline):
		return os.ErrDeadlineExceeded
	case len(c.in) > 0:
		return nil
	case c.over && !c.orderly:
		return unix.ECONNRESET
	case c.over || c.shut:
		return io.EOF
	}
	return nil
}

func (c *fakeConn) wait() error {
	for {
		if err := c.readError(); err != nil || len(c.in) > 0 {
			return err
		}
		c.cond.Wait()
	}
}

func (c *fakeConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wait(); err != nil {
		return 0, err
	}
	n := copy(p, c.in[0])
	if c.in[0] = c.in[0][n:]; len(c.in[0]) == 0 {
		c.in = c.in[1:]
	}
	return n, nil
}

func (c *fakeConn) MessageSize() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wait(); err != nil {
		return 0, err
	}
	return len(c.in[0]), nil
}

func (c *fakeConn) ReadMessage(p []byte) (int, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wait(); err != nil {
		return 0, false, err
	}
	m := c.in[0]
	c.in = c.in[1:]
	if len(m) > len(p) {
		return len(p), false, io.ErrShortBuffer
	}
	return copy(p, m), false, nil
}

func (c *fakeConn) writable() error {
	for {
		switch {
		case c.closed || c.over:
			return net.ErrClosed
		case passed(c.wdeadline):
			return os.ErrDeadlineExceeded
		case c.credit > 0:
			return nil
		}
		c.cond.Wait()
	}
}

func (c *fakeConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writable(); err != nil {
		return 0, err
	}
	c.credit -= len(p)
	return len(p), nil
}

func (c *fakeConn) SendFrom(fill func([][]byte) (int, error)) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writable(); err != nil {
		return 0, err
	}
	n, err := fill([][]byte{make([]byte, min(c.credit, 1000))})
	c.credit -= n
	return n, err
}

func (c *fakeConn) Forward(take func([][]byte) int, rest func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take, c.rest = take, rest
	if len(c.in) > 0 || c.readError() != nil {
		c.startRest()
	}
}

func (c *fakeConn) WriteBuffered(w io.Writer) error {
	for {
		c.mu.Lock()
		err := c.readError()
		if err != nil || len(c.in) == 0 {
			c.forwarding = err != nil
			if err == io.EOF && c.over {
				err = net.ErrClosed
			}
			c.mu.Unlock()
			return err
		}
		b := c.in[0]
		c.in = c.in[1:]
		c.mu.Unlock()
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
}

func (c *fakeConn) OnEnd(f func(bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEnd = f
	if c.over {
		go f(c.orderly)
	}
}

func (c *fakeConn) Received() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.endLocked(false)
	c.cond.Broadcast()
	return nil
}

func (c *fakeConn) Abort() error { return c.Close() }

func (c *fakeConn) CloseRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in = nil
	c.shut = true
	return nil
}

func (c *fakeConn) CloseWrite() error    { return nil }
func (c *fakeConn) LocalAddr() net.Addr  { return nil }
func (c *fakeConn) RemoteAddr() net.Addr { return nil }

func (c *fakeConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// Deadlines are in the past, or so far off that no test waits for them.
func (c *fakeConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rdeadline = t
	c.cond.Broadcast()
	return nil
}

func (c *fakeConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wdeadline = t
	c.cond.Broadcast()
	return nil
}

// fakeListener hands connections out.
type fakeListener struct {
	conns chan *fakeConn
	done  chan struct{}
	once  sync.Once
}

func newFakeListener() *fakeListener {
	return &fakeListener{conns: make(chan *fakeConn), done: make(chan struct{})}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *fakeListener) Addr() net.Addr { return nil }
