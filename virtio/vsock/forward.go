package vsock

import (
	"io"
	"net"
	"syscall"

	"runv.dev/runv/virtio/virtqueue"
)

// maxSlices bounds the slices of guest memory that are handed over at once.
const maxSlices = 64

// Forward has what a SOCK_STREAM connection receives go straight out of the
// driver's buffers, in place of Read: take takes as many bytes as it can without
// waiting. It is called with locks held, by the goroutine that serves all
// connections, and must not use the connection; the slices are guest memory.
//
// When take did not take everything, and at the end of what the guest sends,
// rest is called in a goroutine of its own, and take is not called until it has
// called WriteBuffered and that has returned nil.
func (c *Conn) Forward(take func(bufs [][]byte) int, rest func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take, c.rest = take, rest
	if c.in.n > 0 || c.readError() != nil {
		c.forwardRest()
	}
}

// forward has take take from the n bytes of r, and returns how many it took. The
// caller holds mu.
func (c *Conn) forward(r *virtqueue.Reader, n int) int {
	bufs := &c.dev.slices // deliver has one caller at a time
	peek := *r
	k := 0
	for left := n; left > 0 && k < maxSlices; k++ {
		b := peek.Next(left)
		if b == nil {
			break
		}
		bufs[k] = b
		left -= len(b)
	}
	m := min(max(c.take(bufs[:k]), 0), n)
	clear(bufs[:k]) // guest memory is not to be kept alive
	r.Skip(m)
	c.fwdCnt += uint32(m)
	return m
}

// forwardRest has rest called, unless it is at work. The caller holds mu.
func (c *Conn) forwardRest() {
	if c.rest != nil && !c.forwarding {
		c.forwarding = true
		go c.rest()
	}
}

// WriteBuffered writes to w what take has left. It returns nil when that is
// done, and after that take gets what comes. Other errors are w's, io.EOF when
// the guest has shut down its direction, and net.ErrClosed or ECONNRESET when the
// connection is over.
func (c *Conn) WriteBuffered(w io.Writer) error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		c.mu.Lock()
		err := c.readError()
		if err != nil || c.in.n == 0 {
			c.forwarding = err != nil
			if err == io.EOF && c.state == stateDead {
				err = net.ErrClosed
			}
			c.mu.Unlock()
			return c.opError("read", err)
		}
		if _, err := c.writeChunk(w); err != nil {
			return err
		}
	}
}

// SendFrom sends what fill puts into the driver's buffers. It waits until there
// are credit and buffers, then calls fill once with at least one byte of guest
// memory, and passes on what that returns. fill must neither wait nor use the
// connection: it is called with locks held, and is given as much as the
// connection may send in one turn.
func (c *Conn) SendFrom(fill func(bufs [][]byte) (int, error)) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.typ != TypeStream {
		return 0, c.opError("write", syscall.EPROTOTYPE)
	}
	for {
		err := c.waitToSend(1, true)
		var n int
		var filled bool
		var fillErr error
		if err == nil {
			n, filled, fillErr, err = c.dev.ring.sendFrom(c, fill)
		}
		if err != nil {
			c.dev.ring.leave(c)
			return 0, c.opError("write", err)
		}
		if filled {
			return n, fillErr
		}
	}
}

// sendFrom is send with the bytes that fill has. filled is false if it was not
// called.
func (r *ring) sendFrom(c *Conn, fill func([][]byte) (int, error)) (n int, filled bool, fillErr, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil || r.err != nil {
		return 0, false, nil, syscall.ECONNRESET
	}
	if !r.turnOf(c) {
		return 0, false, nil, nil
	}
	defer r.end()
	c.mu.Lock()
	credit, packets := c.credit(), c.packetCredit()
	if credit == 0 || c.writeError() != nil {
		c.mu.Unlock()
		return 0, false, nil, nil // waitToSend looks why
	}
	c.mu.Unlock()

	bufs := &r.slices
	var rooms [turnPackets]int
	slices, room := 0, 0
	limit := min(credit, turnBytes)
	chains := 0
	for ; chains < min(packets, turnPackets) && room < limit; chains++ {
		if chains == len(r.next) && !r.pop() {
			break
		}
		w := virtqueue.NewWriter(r.next[chains].Writable)
		left := HeaderSize
		for left > 0 {
			left -= len(w.Next(left))
		}
		m := min(w.Len(), maxPacket, limit-room)
		before := slices
		for got := 0; got < m; slices++ {
			if slices == maxSlices {
				break
			}
			bufs[slices] = w.Next(m - got)
			got += len(bufs[slices])
			rooms[chains] = got
		}
		room += rooms[chains]
		if slices == before && m > 0 {
			break
		}
	}
	if r.err != nil {
		return 0, false, nil, syscall.ECONNRESET
	}
	if room == 0 {
		// A buffer without room for data: only a packet without any gets it out
		// of the way.
		c.mu.Lock()
		h := c.header(OpCreditUpdate)
		c.mu.Unlock()
		r.put(&h, nil)
		return 0, false, nil, nil
	}
	n, fillErr = fill(bufs[:slices])
	clear(bufs[:slices])
	n = min(max(n, 0), room)

	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && c.state == stateDead {
		return 0, true, nil, net.ErrClosed // what was taken is lost, as all the rest
	}
	for i, left := 0, n; left > 0; i++ {
		m := min(left, rooms[i])
		h := c.header(OpRW)
		if m == 0 {
			h.Op = OpCreditUpdate
		}
		h.Len = uint32(m)
		var b [HeaderSize]byte
		h.Put(b[:])
		virtqueue.CopyIn(r.next[0].Writable, b[:])
		r.push(uint32(HeaderSize + m))
		if m > 0 {
			c.txCnt += uint32(m)
			c.inFlight.push(c.txCnt)
		}
		left -= m
	}
	return n, true, fillErr, nil
}
