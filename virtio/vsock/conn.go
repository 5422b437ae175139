package vsock

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

type connState uint8

const (
	stateConnecting  connState = iota // REQUEST pending or sent
	stateEstablished                  // until both ends have shut down both ways
	stateClosing                      // closed here: SHUTDOWN pending or sent, RST awaited
	stateDead                         // over; what was received can still be read
)

// What is to be sent for a connection as soon as the driver has a buffer, in
// the order in which it is sent.
const (
	pendRequest = 1 << iota
	pendResponse
	pendCreditUpdate
	pendCreditRequest
	pendShutdown
)

// connKey tells the connections of a device apart: the CIDs are always the
// host's and the guest's.
type connKey struct{ host, guest uint32 }

// Conn is a connection to a socket in the guest. It implements net.Conn, and
// errors are *net.OpError like those of package net: os.ErrDeadlineExceeded,
// net.ErrClosed, ECONNRESET when the guest has reset the connection or went
// away, EPIPE when it receives no more.
//
// Write returns once all data is in the guest's memory: nothing is buffered on
// the host, and Close loses nothing that was written.
//
// On a SOCK_SEQPACKET connection a Write is one message and a Read takes one
// message, of which it drops what does not fit; see ReadMessage.
type Conn struct {
	dev *Device
	key connKey
	typ Type

	rmu sync.Mutex // held by the one who reads
	wmu sync.Mutex // held by the one who writes

	mu    sync.Mutex // after ring.mu, before Device.mu
	rcond sync.Cond  // what a reader waits for
	wcond sync.Cond  // what a writer, Dial or hungUp waits for; always broadcast

	state    connState
	err      error // why the state is stateDead
	closed   bool  // Close was called
	shut     uint32
	peerShut uint32 // flags of the SHUTDOWN packets received
	answered bool   // was established
	slot     bool   // counts as one of the device's connections
	timer    *time.Timer

	rdeadline, wdeadline deadline

	// Receiving. The peer may have sent bufAlloc bytes beyond what has been
	// taken from in; all counters are modulo 2^32.
	in       buffer
	ends     messageEnds // of in, when typ is TypeSeqpacket
	dst      []byte      // of a waiting reader, to be filled directly
	dstN     int
	bufAlloc uint32
	rxCnt    uint32 // received
	fwdCnt   uint32 // consumed
	told     uint32 // fwdCnt as the peer knows it
	updates  int    // of told, while bufAlloc can grow

	// Sending.
	txCnt     uint32 // sent
	peerFwd   uint32 // consumed, of txCnt, as the peer has told
	peerAlloc uint32
	inFlight  packetEnds
	stall     *time.Timer
	turn      bool // the ring has a buffer for the writer

	pending uint8 // what is to be sent; see pendRequest

	onEnd func(orderly bool)

	// Of Forward. While forwarding is set, rest has what is received.
	take       func(bufs [][]byte) int
	rest       func()
	forwarding bool

	control, waiting link // guarded by ring.mu
	closing          link // guarded by Device.mu
}

func newConn(d *Device, key connKey, typ Type, bufAlloc uint32) *Conn {
	c := &Conn{dev: d, key: key, typ: typ, bufAlloc: bufAlloc, slot: true}
	c.in.large = bufAlloc >= 4*largeChunk
	c.rcond.L, c.wcond.L = &c.mu, &c.mu
	c.control.conn, c.waiting.conn, c.closing.conn = c, c, c
	return c
}

// LocalAddr returns the host's end, an Addr.
func (c *Conn) LocalAddr() net.Addr { return Addr{HostCID, c.key.host} }

// RemoteAddr returns the guest's end, an Addr.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.dev.guestCID.Load(), c.key.guest} }

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close closes both directions and returns at once. If data from the guest is
// still unread, or more arrives, the guest gets a reset; otherwise an orderly
// shutdown, which the guest has a bounded time to acknowledge.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	out := outcome{}
	switch c.state {
	case stateConnecting:
		out = c.die(net.ErrClosed, c.pending&pendRequest == 0)
	case stateEstablished:
		if c.in.n > 0 {
			out = c.die(net.ErrClosed, true)
		} else {
			c.shutdown(shutdownBoth)
			out.control = true
		}
	}
	c.in.clear()
	c.rdeadline.stop()
	c.wdeadline.stop()
	c.rcond.Broadcast()
	c.wcond.Broadcast()
	release := c.releaseSlot()
	c.mu.Unlock()
	c.dev.settle(c, out, release)
	return nil
}

// Abort closes the connection with a reset: what the guest has not read may be
// lost to it, and it knows.
func (c *Conn) Abort() error {
	c.reset(net.ErrClosed)
	return c.Close()
}

// CloseRead ends the receiving direction: the guest gets EPIPE when it sends.
// What has been received is dropped, and Read returns io.EOF.
func (c *Conn) CloseRead() error { return c.closeHalf(ShutdownReceive) }

// CloseWrite ends the sending direction: the guest reads end of file after
// what has been written.
func (c *Conn) CloseWrite() error { return c.closeHalf(ShutdownSend) }

func (c *Conn) closeHalf(how uint32) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	var out outcome
	if c.state == stateEstablished {
		if c.shut|how != c.shut {
			c.shutdown(how)
			out.control = true
		}
	} else {
		c.shut |= how
	}
	if how&ShutdownReceive != 0 {
		c.fwdCnt += uint32(c.in.n)
		c.in.clear()
		c.ends.clear()
		c.rcond.Broadcast()
	}
	if how&ShutdownSend != 0 {
		c.wcond.Broadcast()
	}
	release := c.releaseSlot()
	c.mu.Unlock()
	c.dev.settle(c, out, release)
	return nil
}

// shutdown notes that how was shut down here, to be told to the guest. The
// caller holds mu; the state is stateEstablished.
func (c *Conn) shutdown(how uint32) {
	c.shut |= how
	c.pending |= pendShutdown
	if c.shut == shutdownBoth {
		c.state = stateClosing
		c.timer = time.AfterFunc(c.dev.closeTimeout, func() { c.reset(net.ErrClosed) })
		c.dev.mu.Lock()
		c.dev.closing.pushBack(&c.closing)
		c.dev.mu.Unlock()
	}
}

// outcome is what is left to do for a connection after its mutex was released;
// Device.settle does it.
type outcome struct {
	control bool // there is something pending to be sent
	dead    bool // the connection is to be forgotten
	reset   bool // the guest is to get an RST
}

// die ends the connection. The caller holds mu. A second call does nothing.
func (c *Conn) die(err error, reset bool) outcome {
	if c.state == stateDead {
		return outcome{}
	}
	c.state = stateDead
	c.err = err
	c.pending = 0
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.stall != nil {
		c.stall.Stop()
	}
	c.rcond.Broadcast()
	c.wcond.Broadcast()
	if c.onEnd != nil {
		go c.onEnd(c.orderly())
	}
	c.forwardRest()
	return outcome{dead: true, reset: reset}
}

// orderly reports whether the guest has closed the connection with a SHUTDOWN.
// The caller holds mu.
func (c *Conn) orderly() bool { return c.peerShut == shutdownBoth }

// OnEnd has f called when the connection is over, which may be now: once, and in
// a goroutine of its own. What was received can still be read then. orderly says
// that the guest has closed it, and neither end has reset it. There is one f.
func (c *Conn) OnEnd(f func(orderly bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEnd = f
	if c.state == stateDead {
		go f(c.orderly())
	}
}

// abandon ends the connection without a word to the guest.
func (c *Conn) abandon(err error) { c.end(err, false) }

// reset ends the connection and tells the guest.
func (c *Conn) reset(err error) { c.end(err, true) }

func (c *Conn) end(err error, reset bool) {
	c.mu.Lock()
	out := c.die(err, reset)
	release := c.releaseSlot()
	c.mu.Unlock()
	c.dev.settle(c, out, release)
}

// releaseSlot reports, once, that the connection neither exists nor holds
// received data any more. The caller holds mu.
func (c *Conn) releaseSlot() bool {
	if !c.slot || c.state != stateDead || (c.in.n > 0 && !c.closed) {
		return false
	}
	c.slot = false
	return true
}

// deadline is a read or write deadline, guarded by Conn.mu.
type deadline struct {
	timer  *time.Timer
	passed bool
	gen    int // of timer, to know a late call of an old one
}

func (d *deadline) stop() {
	d.gen++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (c *Conn) setDeadline(d *deadline, cond *sync.Cond, t time.Time) {
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		cond.Broadcast()
		return
	}
	gen := d.gen
	d.timer = time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.gen == gen {
			d.passed = true
			cond.Broadcast()
		}
	})
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.setDeadline(&c.rdeadline, &c.rcond, t)
	}
	if write {
		c.setDeadline(&c.wdeadline, &c.wcond, t)
	}
	return nil
}

// readError returns why nothing more can be read, or nil. The caller holds mu.
// What has been received comes before the end of the connection.
func (c *Conn) readError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.rdeadline.passed:
		return os.ErrDeadlineExceeded
	case c.readable():
		return nil
	case c.shut&ShutdownReceive != 0 || c.peerShut&ShutdownSend != 0:
		return io.EOF
	case c.state == stateDead:
		return c.err
	}
	return nil
}

// writeError returns why nothing can be written, or nil. The caller holds mu.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.wdeadline.passed:
		return os.ErrDeadlineExceeded
	case c.shut&ShutdownSend != 0 || c.peerShut&ShutdownReceive != 0:
		return syscall.EPIPE
	case c.state == stateDead:
		return c.err
	}
	return nil
}

// hungUp waits until the guest has ended both directions, or the connection is
// over for another reason.
func (c *Conn) hungUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state != stateDead && !c.closed {
		c.wcond.Wait()
	}
}

// header returns the header of a packet that is about to be sent, with the
// state of the receive buffer. The caller holds mu and the ring's: the guest
// is to see fwdCnt grow.
func (c *Conn) header(op Op) Header {
	c.told = c.fwdCnt
	c.pending &^= pendCreditUpdate
	return Header{
		SrcCID: HostCID, DstCID: c.dev.guestCID.Load(),
		SrcPort: c.key.host, DstPort: c.key.guest,
		Type: c.typ, Op: op,
		BufAlloc: c.bufAlloc, FwdCnt: c.fwdCnt,
	}
}

// nextControl returns the next packet of what is pending. The caller holds mu.
func (c *Conn) nextControl() (Header, bool) {
	for _, p := range [...]struct {
		bit uint8
		op  Op
	}{
		{pendRequest, OpRequest},
		{pendResponse, OpResponse},
		{pendCreditUpdate, OpCreditUpdate},
		{pendCreditRequest, OpCreditRequest},
		{pendShutdown, OpShutdown},
	} {
		if c.pending&p.bit == 0 {
			continue
		}
		c.pending &^= p.bit
		h := c.header(p.op)
		if p.op == OpShutdown {
			h.Flags = c.shut
		}
		return h, true
	}
	return Header{}, false
}
