package vsock

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"runv.dev/runv/virtio/virtqueue"
)

// batch is how many packets are taken from the driver before it is notified
// and replies are sent.
const batch = 64

// transmitLoop takes packets from the driver's transmit queue.
func (d *Device) transmitLoop(act *activation) {
	q := &act.Queues[queueTX]
	todo := make([]*Conn, 0, batch)
	for !act.stopped.Load() {
		more, err := d.transmitBatch(act, &todo)
		if len(todo) > 0 {
			d.ring.post(todo...)
			clear(todo)
			todo = todo[:0]
		}
		if err == nil && !more {
			if more, err = q.SetNotify(true); err == nil && !more {
				if q.Kick.Wait() != nil {
					return
				}
				_, err = q.SetNotify(false)
			}
		}
		if errors.Is(err, virtqueue.ErrStopped) {
			return
		}
		if err != nil {
			d.fail(act, fmt.Errorf("vsock tx: %w", err))
			return
		}
		d.ring.waitDrained()
	}
}

// transmitBatch takes up to a batch of packets and adds the connections that
// have something to send to todo. It reports whether there may be more.
func (d *Device) transmitBatch(act *activation, todo *[]*Conn) (more bool, err error) {
	q := &act.Queues[queueTX]
	notify := false
	defer func() {
		if notify {
			q.Interrupt()
		}
	}()
	for range batch {
		chain, ok, err := q.Pop()
		if err != nil || !ok {
			return false, err
		}
		if len(chain.Writable) > 0 {
			return false, errors.New("packet with a writable buffer")
		}
		if c := d.packet(&chain); c != nil {
			*todo = append(*todo, c)
		}
		head := chain.Head
		chain.Release()
		n, err := q.Push(head, 0)
		if err != nil {
			return false, err
		}
		notify = notify || n
	}
	return true, nil
}

// packet handles a packet of the driver. It returns a connection that has
// something to send.
func (d *Device) packet(chain *virtqueue.Chain) *Conn {
	r := virtqueue.NewReader(chain.Readable)
	var b [HeaderSize]byte
	n, _ := r.Read(b[:])
	h, err := ParseHeader(b[:n])
	if err != nil {
		d.reject("short packet", &h)
		return nil
	}
	v := h.check(d.guestCID.Load(), d.seqpacket, r.Len())
	if v == verdictDrop {
		d.reject("packet dropped", &h)
		return nil
	}
	key := connKey{host: h.DstPort, guest: h.SrcPort}
	var c *Conn
	if h.DstCID == HostCID {
		d.mu.Lock()
		c = d.conns[key]
		d.mu.Unlock()
	}
	if v == verdictReset {
		d.reject("packet refused", &h)
		if c != nil && c.typ == h.Type {
			c.reset(syscall.ECONNRESET)
		} else {
			d.ring.reset(h.reset())
		}
		return nil
	}
	if c != nil {
		c.mu.Lock()
		out, known := c.receive(&h, &r)
		release := c.releaseSlot()
		c.mu.Unlock()
		control := out.control
		out.control = false
		if out.dead || release {
			d.settle(c, out, release)
		}
		switch {
		case known && control:
			return c
		case known:
			return nil
		}
	}
	switch h.Op {
	case OpRst: // never answered
		return nil
	case OpRequest:
		if c := d.request(&h, key); c != nil {
			return c
		}
	}
	d.ring.reset(h.reset())
	return nil
}

// receive is the state machine of a connection for packets from the guest. The
// caller holds mu. known is false if the packet is to be treated as one for no
// connection.
func (c *Conn) receive(h *Header, r *virtqueue.Reader) (out outcome, known bool) {
	if c.state == stateDead || h.Type != c.typ {
		return outcome{}, false
	}
	if h.Op == OpRst {
		err := error(syscall.ECONNRESET)
		if c.state == stateConnecting {
			err = syscall.ECONNREFUSED
		}
		return c.die(err, false), true
	}
	switch c.state {
	case stateConnecting:
		if h.Op != OpResponse || c.pending&pendRequest != 0 {
			return c.die(syscall.EPROTO, true), true
		}
		c.creditInfo(h)
		c.state, c.answered = stateEstablished, true
		c.wcond.Broadcast()
		return outcome{}, true

	case stateEstablished:
		c.creditInfo(h)
		switch h.Op {
		case OpRW:
			ok, update := c.deliver(h, r)
			if !ok {
				return c.die(syscall.ENOBUFS, true), true
			}
			return outcome{control: update}, true
		case OpCreditUpdate:
			// With a smaller buffer of its own it waits for less.
			return outcome{control: c.creditDue()}, true
		case OpCreditRequest:
			c.pending |= pendCreditUpdate
			return outcome{control: true}, true
		case OpShutdown:
			return c.peerShutdown(h.Flags), true
		}
		// REQUEST or RESPONSE: the two ends do not agree on what this
		// connection is.
		return c.die(syscall.ECONNRESET, true), true

	default: // stateClosing
		switch h.Op {
		case OpCreditUpdate, OpCreditRequest:
			return outcome{}, true
		case OpShutdown:
			return c.peerShutdown(h.Flags), true
		case OpRequest:
			// The guest has forgotten the connection, as Linux does on our
			// SHUTDOWN when its program has not read everything.
			return c.die(net.ErrClosed, false), false
		}
		return c.die(syscall.ECONNRESET, true), true // data nobody will read
	}
}

// peerShutdown handles SHUTDOWN (section 5.10.6.5): the hints are permanent,
// and both together are acknowledged with an RST. What was received before can
// still be read.
func (c *Conn) peerShutdown(flags uint32) outcome {
	c.peerShut |= flags & shutdownBoth
	if c.peerShut == shutdownBoth {
		return c.die(syscall.ECONNRESET, true)
	}
	c.rcond.Broadcast()
	c.wcond.Broadcast()
	if flags&ShutdownSend != 0 {
		c.forwardRest()
	}
	return outcome{}
}

// reject logs a bad packet.
func (d *Device) reject(what string, h *Header) {
	d.rejects.Warn("vsock: "+what, "src", Addr{h.SrcCID, h.SrcPort}, "dst", Addr{h.DstCID, h.DstPort},
		"type", uint16(h.Type), "op", h.Op.String(), "len", h.Len)
}
