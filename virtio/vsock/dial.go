package vsock

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// ErrNotReady is returned by Dial when the guest has no running driver.
var ErrNotReady = errors.New("the guest's vsock driver is not running")

const (
	// dialTimeout bounds Dial when its context has no deadline.
	dialTimeout = 30 * time.Second

	// firstPort is where the host's ephemeral ports begin.
	firstPort = 1 << 30

	portAny = 1<<32 - 1 // VMADDR_PORT_ANY
)

// Dial connects to a SOCK_STREAM port of the guest. The errors are
// ECONNREFUSED if nothing listens there, ErrNotReady, the context's, and
// os.ErrDeadlineExceeded after 30 seconds if that has no deadline.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	return d.dial(ctx, TypeStream, port)
}

// DialSeqpacket is Dial for SOCK_SEQPACKET. The error is EPROTONOSUPPORT if
// the driver has not negotiated it.
func (d *Device) DialSeqpacket(ctx context.Context, port uint32) (*Conn, error) {
	return d.dial(ctx, TypeSeqpacket, port)
}

func (d *Device) dial(ctx context.Context, typ Type, port uint32) (*Conn, error) {
	dialError := func(err error) error {
		return &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{d.guestCID.Load(), port}, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, dialError(err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialTimeout)
		defer cancel()
	}
	if err := d.events.wait(ctx); err != nil {
		return nil, dialError(err)
	}
	d.mu.Lock()
	if typ == TypeSeqpacket && d.ready && !d.seqpacket {
		d.mu.Unlock()
		return nil, dialError(syscall.EPROTONOSUPPORT)
	}
	c, evict, err := d.add(typ, connKey{guest: port}, true)
	d.mu.Unlock()
	if evict != nil {
		evict.reset(net.ErrClosed)
	}
	if err != nil {
		return nil, dialError(err)
	}
	c.mu.Lock()
	if c.state == stateConnecting {
		c.pending |= pendRequest
	}
	c.mu.Unlock()
	d.ring.post(c)

	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wcond.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	for c.state == stateConnecting && ctx.Err() == nil {
		c.wcond.Wait()
	}
	switch {
	case c.state == stateDead && !c.answered:
		err = c.err
	case c.state == stateConnecting:
		err = ctx.Err()
	}
	c.mu.Unlock()
	if err != nil {
		c.Close()
		return nil, dialError(err)
	}
	return c, nil
}

// add makes a connection and gives it a free host port if ephemeral is set.
// The caller holds mu. When the limit of connections is reached, one that is
// only waiting for its close to be acknowledged is to be evicted by the caller.
func (d *Device) add(typ Type, key connKey, ephemeral bool) (c, evict *Conn, err error) {
	if !d.ready {
		return nil, nil, ErrNotReady
	}
	if d.slots >= d.maxConns {
		if d.closing.head == nil {
			return nil, nil, syscall.EMFILE
		}
		evict = d.closing.head.conn
		d.closing.remove(&evict.closing)
	}
	if typ == TypeSeqpacket && d.seqpackets >= d.maxSeqpacket {
		return nil, evict, syscall.EMFILE
	}
	for ephemeral {
		key.host = d.nextPort
		if d.nextPort++; d.nextPort == portAny {
			d.nextPort = firstPort
		}
		if d.conns[key] == nil {
			break
		}
	}
	window := d.window
	if d.buffers+uint64(window) > d.maxBuffer {
		small := uint32(smallWindow)
		if typ == TypeSeqpacket {
			small = seqpacketWindow
		}
		window = min(window, small)
	}
	if typ == TypeSeqpacket {
		d.seqpackets++
	}
	c = newConn(d, key, typ, window)
	d.conns[key] = c
	d.slots++
	d.buffers += uint64(window)
	return c, evict, nil
}
