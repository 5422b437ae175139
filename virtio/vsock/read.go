package vsock

import (
	"io"
	"sync"

	"runv.dev/runv/virtio/virtqueue"
)

// minMessage bounds the number of messages in a receive buffer to what it has
// room for if each has that many bytes. A guest that sends more of them without
// being read is treated as if it had exceeded its credit.
const minMessage = 32

// messageEnds are the ends of the messages in a SOCK_SEQPACKET connection's
// receive buffer, as values of rxCnt.
type messageEnds struct {
	ends []messageEnd
}

type messageEnd struct {
	at  uint32
	eor bool
}

func (m *messageEnds) clear() { m.ends = nil }

// readable reports whether a Read need not wait. The caller holds mu.
func (c *Conn) readable() bool {
	if c.typ == TypeSeqpacket {
		return len(c.ends.ends) > 0
	}
	return c.in.n > 0
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.typ == TypeSeqpacket {
		n, _, err := c.ReadMessage(p)
		if err == io.ErrShortBuffer {
			err = nil
		}
		return n, err
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mu.Lock()
	n, err := c.read(p)
	update := c.creditDue()
	release := c.releaseSlot()
	c.mu.Unlock()
	if update || release {
		c.dev.settle(c, outcome{control: update}, release)
	}
	return n, c.opError("read", err)
}

func (c *Conn) read(p []byte) (int, error) {
	for {
		if err := c.readError(); err != nil {
			return 0, err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if c.in.n > 0 {
			n := c.in.read(p)
			c.fwdCnt += uint32(n)
			return n, nil
		}
		c.dst, c.dstN = p, 0
		c.rcond.Wait()
		n := c.dstN
		c.dst, c.dstN = nil, 0
		if n > 0 {
			return n, nil // even if closed since: it was delivered before
		}
	}
}

// Received is the number of bytes that have arrived so far, modulo 2^32, those
// that were not read included.
func (c *Conn) Received() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rxCnt
}

// MessageSize waits for a message of a SOCK_SEQPACKET connection and has its
// length in bytes, so that who reads needs no buffer before.
func (c *Conn) MessageSize() (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.readError(); err != nil {
			return 0, c.opError("read", err)
		}
		if len(c.ends.ends) > 0 {
			return int(c.ends.ends[0].at - c.fwdCnt), nil
		}
		c.rcond.Wait()
	}
}

// ReadMessage takes the next message of a SOCK_SEQPACKET connection. eor says
// that it was sent with MSG_EOR. When p is too short for it, the rest is
// dropped and the error is io.ErrShortBuffer.
func (c *Conn) ReadMessage(p []byte) (n int, eor bool, err error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mu.Lock()
	n, eor, err = c.readMessage(p)
	update := c.creditDue()
	release := c.releaseSlot()
	c.mu.Unlock()
	if update || release {
		c.dev.settle(c, outcome{control: update}, release)
	}
	if err == io.ErrShortBuffer {
		return n, eor, err
	}
	return n, eor, c.opError("read", err)
}

func (c *Conn) readMessage(p []byte) (int, bool, error) {
	for {
		if err := c.readError(); err != nil {
			return 0, false, err
		}
		if len(c.ends.ends) > 0 {
			break
		}
		c.rcond.Wait()
	}
	end := c.ends.ends[0]
	if c.ends.ends = c.ends.ends[1:]; len(c.ends.ends) == 0 {
		c.ends.ends = nil
	}
	size := int(end.at - c.fwdCnt)
	n := c.in.read(p[:min(len(p), size)])
	c.in.skip(size - n)
	c.fwdCnt += uint32(size)
	if n < size {
		return n, end.eor, io.ErrShortBuffer
	}
	return n, end.eor, nil
}

// WriteTo implements io.WriterTo: it writes what is received to w until end of
// file, straight from the receive buffer. What w has not taken yet holds back
// the guest.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if c.typ == TypeSeqpacket {
		return io.Copy(w, struct{ io.Reader }{c})
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	var total int64
	for {
		c.mu.Lock()
		err := c.readError()
		for err == nil && c.in.n == 0 {
			c.rcond.Wait()
			err = c.readError()
		}
		if err != nil {
			c.mu.Unlock()
			if err == io.EOF {
				err = nil
			}
			return total, c.opError("read", err)
		}
		m, err := c.writeChunk(w)
		total += int64(m)
		if err != nil {
			return total, err
		}
	}
}

// writeChunk writes the first chunk of what is buffered to w. The caller holds
// mu, which is released.
func (c *Conn) writeChunk(w io.Writer) (int, error) {
	ch := c.in.take()
	c.mu.Unlock()

	n, err := w.Write(ch.data[ch.off:ch.end])
	if err == nil && n < ch.end-ch.off {
		err = io.ErrShortWrite
	}

	c.mu.Lock()
	c.fwdCnt += uint32(ch.end - ch.off)
	update := c.creditDue()
	release := c.releaseSlot()
	c.mu.Unlock()
	ch.release()
	if update || release {
		c.dev.settle(c, outcome{control: update}, release)
	}
	return n, err
}

// creditDue reports whether the guest ought to be told that there is room in
// the receive buffer again, and notes that it will be. The caller holds mu.
//
// A guest that has used up its credit is told when it can have half of it again.
// Linux never has more on the way than its own buffer takes, whatever the credit.
// If a message longer than its credit is on the way, nothing can be consumed
// before it is there, so it is told everything early.
func (c *Conn) creditDue() bool {
	untold := c.fwdCnt - c.told
	most := min(c.bufAlloc, c.peerAlloc)
	due := untold >= most/2
	if c.typ == TypeSeqpacket {
		due = untold >= most/8 || (len(c.ends.ends) == 0 && c.in.n > 0)
	}
	if !due || untold == 0 || c.state != stateEstablished || c.shut&ShutdownReceive != 0 || c.pending&pendCreditUpdate != 0 {
		return false
	}
	c.pending |= pendCreditUpdate
	c.widen()
	return true
}

// widen gives a stream that carries much more credit, if the guest can use it, so
// that there is less to be told. The caller holds mu.
func (c *Conn) widen() {
	d := c.dev
	if c.typ != TypeStream || c.bufAlloc < d.window || c.bufAlloc >= d.window*wideWindow || c.bufAlloc >= c.peerAlloc {
		return
	}
	if c.updates++; c.updates < widenAfter {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Half is left for connections to come.
	if d.buffers+uint64(c.bufAlloc) <= d.maxBuffer/2 {
		d.buffers += uint64(c.bufAlloc)
		c.bufAlloc *= 2
	}
}

// deliver takes the payload of an RW packet. The caller holds mu and has
// checked that r holds h.Len bytes. It returns false if the guest has
// exceeded its credit; update is as in creditDue.
func (c *Conn) deliver(h *Header, r *virtqueue.Reader) (ok, update bool) {
	n := int(h.Len)
	if uint64(c.rxCnt-c.fwdCnt)+uint64(n) > uint64(c.bufAlloc) {
		return false, false
	}
	c.rxCnt += h.Len
	if c.shut&ShutdownReceive != 0 {
		c.fwdCnt += h.Len
		return true, false
	}
	if c.typ == TypeSeqpacket {
		c.in.append(r, n)
		if h.Flags&SeqEOM == 0 {
			return true, c.creditDue()
		}
		start := c.fwdCnt
		if k := len(c.ends.ends); k > 0 {
			start = c.ends.ends[k-1].at
		}
		if c.rxCnt == start {
			return true, false // an empty message, which there is no way to read
		}
		if len(c.ends.ends) >= int(c.bufAlloc/minMessage) {
			return false, false
		}
		c.ends.ends = append(c.ends.ends, messageEnd{c.rxCnt, h.Flags&SeqEOR != 0})
		c.rcond.Signal()
		return true, false
	}
	if c.take != nil && !c.forwarding {
		n -= c.forward(r, n)
		if n > 0 {
			c.in.append(r, n)
			c.forwardRest()
		}
		return true, c.creditDue()
	}
	if len(c.dst) > c.dstN && c.in.n == 0 {
		m, _ := r.Read(c.dst[c.dstN:min(len(c.dst), c.dstN+n)])
		c.dstN += m
		c.fwdCnt += uint32(m)
		n -= m
	}
	c.in.append(r, n)
	c.rcond.Signal()
	return true, false
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, largeChunk); return &b }}
