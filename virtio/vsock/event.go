package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	eventSize           = 4 // struct virtio_vsock_event
	eventTransportReset = 0
)

// events is the event queue (section 5.10.6.7).
type events struct {
	mu    sync.Mutex
	q     *virtio.ActiveQueue
	free  []virtqueue.Chain // the driver's buffers, at most as many as the queue's size
	reset bool              // the event is due
	sent  int               // events sent that the driver has not handled
	done  chan struct{}     // closed when none is due or sent; nil if none is
}

func (e *events) start(q *virtio.ActiveQueue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.q = q
}

func (e *events) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.q, e.free, e.reset, e.sent = nil, nil, false, 0
	e.settle()
}

// settle lets those who wait go on if no event is under way. The caller holds mu.
func (e *events) settle() {
	if e.done != nil && !e.reset && e.sent == 0 {
		close(e.done)
		e.done = nil
	}
}

// wait returns when the driver has handled the last event: a connection made
// before would be ended by it, and the guest does not tell.
func (e *events) wait(ctx context.Context) error {
	e.mu.Lock()
	done := e.done
	e.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TransportReset tells the driver that its connections are gone, as after the
// guest was restored from a snapshot: connections on both sides end, listeners
// stay, and the driver reads its CID again, which is cid from now on. Dial
// waits until the driver has done so. Without an active driver it only sets
// the CID.
func (d *Device) TransportReset(cid uint64) {
	d.guestCID.Store(cid)
	// The guest takes a packet from a port for one of the connection it had with
	// it, until its programs have closed that.
	d.mu.Lock()
	d.nextPort = firstPort + rand.Uint32N(portAny-firstPort)
	d.mu.Unlock()
	d.events.mu.Lock()
	if d.events.q != nil {
		d.events.reset = true
		if d.events.done == nil {
			d.events.done = make(chan struct{})
		}
		d.events.q.Kick.Signal() // fails only if the device is being closed
	}
	d.events.mu.Unlock()
	d.abandonAll(syscall.ECONNRESET)
}

// eventLoop sends the events that are due.
func (d *Device) eventLoop(act *activation) {
	q := &act.Queues[queueEvent]
	for {
		if err := d.events.update(); err != nil {
			if !errors.Is(err, virtqueue.ErrStopped) {
				d.fail(act, fmt.Errorf("vsock event: %w", err))
			}
			return
		}
		if q.Kick.Wait() != nil || act.stopped.Load() {
			return
		}
	}
}

// update takes the driver's new buffers, and sends an event that is due. The
// driver offers a buffer again when it has handled the event in it.
func (e *events) update() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.q == nil {
		return nil
	}
	for {
		c, ok, err := e.q.Pop()
		if err != nil {
			return err
		}
		if ok {
			if len(e.free) == int(e.q.Size()) {
				return errors.New("more buffers than the queue holds")
			}
			e.free = append(e.free, c)
			e.sent = max(e.sent-1, 0)
			continue
		}
		pending, err := e.q.SetNotify(true)
		if err != nil {
			return err
		}
		if !pending {
			break
		}
	}
	e.settle()
	if !e.reset || len(e.free) == 0 {
		return nil
	}
	return e.send()
}

// send sends the event in the first free buffer. The caller holds mu.
func (e *events) send() error {
	c := e.free[0]
	e.free = e.free[1:]
	var b [eventSize]byte
	binary.LittleEndian.PutUint32(b[:], eventTransportReset)
	if virtqueue.CopyIn(c.Writable, b[:]) < eventSize {
		return fmt.Errorf("event buffer of %d bytes", virtqueue.Len(c.Writable))
	}
	e.reset = false
	e.sent++
	notify, err := e.q.Push(c.Head, eventSize)
	if err == nil && notify {
		e.q.Interrupt()
	}
	return err
}
