package vsock

import (
	"net"
	"sync"
	"syscall"
)

type listenKey struct {
	typ  Type
	port uint32
}

// Listener accepts connections from the guest to a host port. It outlives the
// reset of the device.
type Listener struct {
	dev *Device
	key listenKey

	// Guarded by Device.mu.
	cond   sync.Cond
	queue  []*Conn
	closed bool
}

// Listen accepts SOCK_STREAM connections to a port of the host. The error is
// EADDRINUSE if somebody does already. A connection is established, as the
// guest sees it, before it is accepted.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	return d.listen(TypeStream, port)
}

// ListenSeqpacket is Listen for SOCK_SEQPACKET.
func (d *Device) ListenSeqpacket(port uint32) (net.Listener, error) {
	return d.listen(TypeSeqpacket, port)
}

func (d *Device) listen(typ Type, port uint32) (net.Listener, error) {
	l := &Listener{dev: d, key: listenKey{typ, port}}
	l.cond.L = &d.mu
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listeners[l.key] != nil {
		return nil, l.opError("listen", syscall.EADDRINUSE)
	}
	d.listeners[l.key] = l
	return l, nil
}

// Addr returns the host's address, an Addr.
func (l *Listener) Addr() net.Addr { return Addr{HostCID, l.key.port} }

func (l *Listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Addr: l.Addr(), Err: err}
}

// Accept implements net.Listener; the connection is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	l.dev.mu.Lock()
	defer l.dev.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, l.opError("accept", net.ErrClosed)
	}
	c := l.queue[0]
	if l.queue = l.queue[1:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return c, nil
}

// Close ends listening and closes the connections that were not accepted.
func (l *Listener) Close() error {
	l.dev.mu.Lock()
	if l.closed {
		l.dev.mu.Unlock()
		return l.opError("close", net.ErrClosed)
	}
	l.closed = true
	delete(l.dev.listeners, l.key)
	queue := l.queue
	l.queue = nil
	l.cond.Broadcast()
	l.dev.mu.Unlock()
	for _, c := range queue {
		c.reset(net.ErrClosed)
		c.Close()
	}
	return nil
}

// request handles a REQUEST from the guest. It returns the connection, which
// has the RESPONSE to send, or nil if the request is refused.
func (d *Device) request(h *Header, key connKey) *Conn {
	d.mu.Lock()
	l := d.listeners[listenKey{h.Type, h.DstPort}]
	if l == nil || len(l.queue) >= d.backlog {
		d.mu.Unlock()
		return nil
	}
	c, evict, err := d.add(h.Type, key, false)
	if err == nil {
		c.state, c.answered = stateEstablished, true
		c.peerAlloc = h.BufAlloc
		c.pending = pendResponse
		l.queue = append(l.queue, c)
		l.cond.Signal()
	}
	d.mu.Unlock()
	if evict != nil {
		evict.reset(net.ErrClosed)
	}
	return c
}
