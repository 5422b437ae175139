package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
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
	reset bool // the event is due
}

func (e *events) start(q *virtio.ActiveQueue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.q, e.reset = q, false
}

func (e *events) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.q = nil
}

// TransportReset tells the driver that its connections are gone, as after the
// guest was restored from a snapshot: connections on both sides end, listeners
// stay, and the driver reads its CID again, which is cid from now on. Without
// an active driver it only sets the CID.
func (d *Device) TransportReset(cid uint64) {
	d.guestCID.Store(cid)
	d.abandonAll(syscall.ECONNRESET)
	d.events.mu.Lock()
	defer d.events.mu.Unlock()
	if d.events.q != nil {
		d.events.reset = true
		d.events.q.Kick.Signal() // fails only if the device is being closed
	}
}

// eventLoop sends the events that are due. It takes no buffer before.
func (d *Device) eventLoop(act *activation) {
	q := &act.Queues[queueEvent]
	for {
		if err := d.events.send(); err != nil {
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

func (e *events) send() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.q == nil || !e.reset {
		return nil
	}
	for {
		c, ok, err := e.q.Pop()
		if err != nil {
			return err
		}
		if !ok {
			pending, err := e.q.SetNotify(true)
			if err != nil || !pending {
				return err
			}
			continue
		}
		var b [eventSize]byte
		binary.LittleEndian.PutUint32(b[:], eventTransportReset)
		if virtqueue.CopyIn(c.Writable, b[:]) < eventSize {
			return fmt.Errorf("event buffer of %d bytes", virtqueue.Len(c.Writable))
		}
		e.reset = false
		notify, err := e.q.Push(c.Head, eventSize)
		if err == nil && notify {
			e.q.Interrupt()
		}
		return err
	}
}
