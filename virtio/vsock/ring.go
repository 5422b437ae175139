package vsock

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	// turnBytes and turnPackets are how much a connection sends before others
	// that wait for the driver's buffers get theirs.
	turnBytes   = 64 << 10
	turnPackets = 64

	// maxPacket is the largest payload sent in one packet, Linux's own limit.
	maxPacket = 64 << 10

	// maxResets is how many RST packets wait for the driver's buffers. When
	// half of them do, nothing more is taken from the driver.
	maxResets = 512
)

// link is an element of a list of connections.
type link struct {
	conn       *Conn
	prev, next *link
	queued     atomic.Bool // written with the lock of the list held
}

// list is a FIFO of connections, each at most once.
type list struct{ head, tail *link }

func (l *list) pushBack(e *link) {
	if e.queued.Load() {
		return
	}
	e.prev, e.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = e
	} else {
		l.head = e
	}
	l.tail = e
	e.queued.Store(true)
}

func (l *list) pushFront(e *link) {
	if e.queued.Load() {
		return
	}
	e.prev, e.next = nil, l.head
	if l.head != nil {
		l.head.prev = e
	} else {
		l.tail = e
	}
	l.head = e
	e.queued.Store(true)
}

func (l *list) remove(e *link) {
	if !e.queued.Load() {
		return
	}
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.tail = e.prev
	}
	e.prev, e.next = nil, nil
	e.queued.Store(false)
}

// ring is the way to the guest: the driver's receive queue, and what waits for
// the driver to put buffers there. What waits is bounded: RST packets in
// number; for a connection a few bits, and the data of whoever is in Write.
type ring struct {
	dev *Device

	mu      sync.Mutex // before Conn.mu
	q       *virtio.ActiveQueue
	err     error             // the driver broke the rules
	next    []virtqueue.Chain // popped and not used
	kicks   bool              // the driver was asked to notify
	notify  bool              // the driver wants an interrupt for what was pushed
	resets  []Header
	control list // connections with something pending
	waiting list // connections whose writer waits
	drained sync.Cond
	slices  [maxSlices][]byte // for sendFrom
}

// start begins to use q.
func (r *ring) start(q *virtio.ActiveQueue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q, r.err, r.kicks, r.notify = q, nil, true, false
}

// stop ends the use of the queue; the guest's memory is not touched any more.
func (r *ring) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q, r.next, r.resets = nil, nil, nil
	for r.control.head != nil {
		r.control.remove(r.control.head)
	}
	for r.waiting.head != nil {
		r.grant()
	}
	r.drained.Broadcast()
}

// available reports whether there is a buffer in r.next. When there is none,
// the driver has been asked to notify.
func (r *ring) available() bool { return len(r.next) > 0 || r.pop() }

// pop adds a buffer to r.next, as available does.
func (r *ring) pop() bool {
	if r.q == nil || r.err != nil {
		return false
	}
	for {
		c, ok, err := r.q.Pop()
		if err == nil && ok && (len(c.Readable) > 0 || virtqueue.Len(c.Writable) < HeaderSize) {
			err = fmt.Errorf("receive buffer of %d bytes", virtqueue.Len(c.Writable))
		}
		if err != nil {
			r.fail(err)
			return false
		}
		if ok {
			r.next = append(r.next, c)
			if r.kicks {
				r.kicks = false
				r.q.SetNotify(false) // a hint: an error would come back from Pop
			}
			return true
		}
		if r.kicks {
			return false
		}
		pending, err := r.q.SetNotify(true)
		if err != nil {
			r.fail(err)
			return false
		}
		r.kicks = true
		if !pending {
			return false
		}
	}
}

// fail notes that the driver broke the rules; Device.receiveLoop reports it.
func (r *ring) fail(err error) {
	if r.err == nil && !errors.Is(err, virtqueue.ErrStopped) {
		r.err = fmt.Errorf("vsock rx: %w", err)
		r.q.Kick.Signal() // at most a lost report: the queue is dead anyway
		r.drained.Broadcast()
	}
}

// put sends a packet in the first buffer of r.next: h, completed with the length,
// and as much of p as fits. It returns the number of bytes of p.
func (r *ring) put(h *Header, p []byte) int {
	w := virtqueue.NewWriter(r.next[0].Writable)
	n := min(len(p), w.Len()-HeaderSize, maxPacket)
	h.Len = uint32(n)
	if h.Op == OpRW && n < len(p) {
		h.Flags = 0 // not the end of the message
		if n == 0 {
			h.Op = OpCreditUpdate // the buffer has no room for data
		}
	}
	var b [HeaderSize]byte
	h.Put(b[:])
	w.Write(b[:])
	w.Write(p[:n])
	r.push(w.Written())
	return n
}

// push gives the first buffer of r.next back to the driver, with n bytes in it.
func (r *ring) push(n uint32) {
	c := r.next[0]
	notify, err := r.q.Push(c.Head, n)
	c.Release()
	last := len(r.next) - 1
	copy(r.next, r.next[1:])
	r.next[last] = virtqueue.Chain{}
	r.next = r.next[:last]
	if err != nil {
		r.fail(err)
	}
	r.notify = r.notify || notify
}

// flush sends what is pending, as far as there are buffers, and reports
// whether that was all.
func (r *ring) flush() bool {
	for len(r.resets) > 0 || r.control.head != nil {
		if !r.available() {
			return false
		}
		if len(r.resets) > 0 {
			h := r.resets[0]
			r.put(&h, nil)
			r.resets = r.resets[1:]
			if len(r.resets) == maxResets/2-1 {
				r.drained.Broadcast()
			}
			continue
		}
		c := r.control.head.conn
		c.mu.Lock()
		h, ok := c.nextControl()
		c.mu.Unlock()
		if ok {
			r.put(&h, nil)
		} else {
			r.control.remove(&c.control)
		}
	}
	r.resets = nil
	return true
}

// end lets the next writer have its turn if there are buffers, and interrupts
// the guest if it wants that.
func (r *ring) end() {
	if r.waiting.head != nil && r.available() {
		r.grant()
	}
	if r.notify && r.q != nil {
		r.notify = false
		r.q.Interrupt()
	}
}

// grant tells the first waiting writer that it is its turn.
func (r *ring) grant() {
	c := r.waiting.head.conn
	r.waiting.remove(&c.waiting)
	c.mu.Lock()
	c.turn = true
	c.wcond.Broadcast()
	c.mu.Unlock()
}

// kicked is called when the driver says that there are new buffers.
func (r *ring) kicked() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush()
	r.end()
	return r.err
}

// post sends what is pending of the connections.
func (r *ring) post(conns ...*Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil {
		return
	}
	for _, c := range conns {
		c.mu.Lock()
		pending := c.pending
		c.mu.Unlock()
		if pending != 0 { // and not dead: those would pile up
			r.control.pushBack(&c.control)
		}
	}
	r.flush()
	r.end()
}

// reset sends an RST. When too many wait already the driver has stopped
// receiving, and this one is dropped.
func (r *ring) reset(h Header) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil || len(r.resets) >= maxResets {
		return
	}
	r.resets = append(r.resets, h)
	r.flush()
	r.end()
}

// waitDrained waits until there is room for replies, or stop.
func (r *ring) waitDrained() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.q != nil && r.err == nil && len(r.resets) >= maxResets/2 {
		r.drained.Wait()
	}
}

// forget drops c from the lists.
func (r *ring) forget(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.control.remove(&c.control)
}

// leave is called by a writer that gives up.
func (r *ring) leave(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting.remove(&c.waiting)
	c.mu.Lock()
	turn := c.turn
	c.turn = false
	c.mu.Unlock()
	if turn {
		r.end()
	}
}

// turnOf reports whether c may use the driver's buffers now: there are some, and
// it is its turn. Otherwise it is put on the list of those who wait.
func (r *ring) turnOf(c *Conn) bool {
	c.mu.Lock()
	turn := c.turn
	c.turn = false
	unanswered := c.pending&pendResponse != 0
	c.mu.Unlock()
	if unanswered { // accepted before the device came to post it
		r.control.pushBack(&c.control)
	}
	if r.flush() && (turn || r.waiting.head == nil) && r.available() {
		return true
	}
	if turn {
		r.waiting.pushFront(&c.waiting)
	} else {
		r.waiting.pushBack(&c.waiting)
	}
	r.end()
	return false
}

// send sends p as far as there are credit and buffers, but not more than a
// turn. When it ends for want of buffers, or it is the turn of others, c is
// put on the list of those who wait.
func (r *ring) send(c *Conn, p []byte, flags uint32) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil || r.err != nil {
		return 0, syscall.ECONNRESET
	}
	if !r.turnOf(c) {
		return 0, nil
	}
	n := 0
	for i := 0; i < turnPackets && n < turnBytes && n < len(p); i++ {
		c.mu.Lock()
		credit := c.credit()
		if credit == 0 || c.writeError() != nil {
			c.mu.Unlock()
			break // waitToSend looks why
		}
		if !r.available() {
			c.mu.Unlock()
			r.waiting.pushBack(&c.waiting)
			break
		}
		h := c.header(OpRW)
		h.Flags = flags
		q := p[n:]
		if len(q) > credit {
			q = q[:credit]
			h.Flags = 0
		}
		m := r.put(&h, q)
		if m > 0 {
			c.txCnt += uint32(m)
			c.inFlight.push(c.txCnt)
		}
		c.mu.Unlock()
		n += m
	}
	r.end()
	return n, nil
}
