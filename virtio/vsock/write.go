package vsock

import (
	"io"
	"syscall"
	"time"
)

const (
	// packetCost is what a packet that the guest has not consumed yet is
	// assumed to cost it beside its payload, in bytes. A Linux driver resets
	// connections whose queued packets cost more than the receive buffer,
	// however little data they carry; its own figure is 576.
	packetCost = 1024

	// maxInFlight bounds the unconsumed packets of a connection, whatever
	// buffer the peer says it has.
	maxInFlight = 4096

	// stallTime is how long credit may be lacking before the peer is asked
	// for it.
	stallTime = 200 * time.Millisecond
)

// packetEnds are the ends of the packets sent and not consumed, as values of
// txCnt, oldest first.
type packetEnds struct {
	ends  []uint32
	first int
}

func (e *packetEnds) len() int { return len(e.ends) - e.first }

func (e *packetEnds) push(end uint32) {
	if e.first > 0 && len(e.ends) == cap(e.ends) {
		e.ends = e.ends[:copy(e.ends, e.ends[e.first:])]
		e.first = 0
	}
	e.ends = append(e.ends, end)
}

// consumed forgets the packets that end at or before fwd.
func (e *packetEnds) consumed(fwd uint32) {
	for e.first < len(e.ends) && int32(fwd-e.ends[e.first]) >= 0 {
		e.first++
	}
	if e.first == len(e.ends) {
		e.ends, e.first = e.ends[:0], 0
	}
}

// packetCredit returns how many packets may be sent. The caller holds mu.
func (c *Conn) packetCredit() int {
	n := c.inFlight.len()
	most := min(maxInFlight, int(c.peerAlloc/packetCost))
	if n == 0 {
		most = max(most, 1)
	}
	return max(0, most-n)
}

// credit returns how many bytes the next packet may have. The caller holds mu.
func (c *Conn) credit() int {
	if c.packetCredit() == 0 {
		return 0
	}
	return int(max(0, int64(c.peerAlloc)-int64(c.txCnt-c.peerFwd)))
}

// creditInfo takes what every packet from the peer says about its receive
// buffer. The caller holds mu.
//
// A fwd_cnt that is not between the last one and what has been sent is stale
// (Linux can send two packets in the other order than it filled them in) or
// made up, and ignored. A buf_alloc may shrink below what is in flight.
func (c *Conn) creditInfo(h *Header) {
	before := c.credit()
	if h.FwdCnt-c.peerFwd <= c.txCnt-c.peerFwd {
		c.peerFwd = h.FwdCnt
		c.inFlight.consumed(h.FwdCnt)
	}
	c.peerAlloc = h.BufAlloc
	if before == 0 && c.credit() > 0 {
		c.wcond.Broadcast()
	}
}

// Write implements net.Conn. It takes as much credit and as many of the
// driver's buffers as there are and waits for more, so p may be partly sent
// when the deadline passes; a SOCK_SEQPACKET connection is reset then.
func (c *Conn) Write(p []byte) (int, error) { return c.write(p, 0) }

// WriteMessage is Write with MSG_EOR if eor is set, for SOCK_SEQPACKET.
func (c *Conn) WriteMessage(p []byte, eor bool) (int, error) {
	if eor {
		return c.write(p, SeqEOR)
	}
	return c.write(p, 0)
}

func (c *Conn) write(p []byte, flags uint32) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.typ == TypeSeqpacket {
		flags |= SeqEOM
	} else {
		flags = 0
	}
	n := 0
	for {
		err := c.waitToSend(len(p), n == 0)
		if err == nil && n < len(p) {
			var m int
			m, err = c.dev.ring.send(c, p[n:], flags)
			n += m
		}
		if err != nil {
			c.dev.ring.leave(c)
			if c.typ == TypeSeqpacket && n > 0 {
				c.reset(err)
				n = 0
			}
			return n, c.opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
	}
}

// waitToSend waits until there is credit, and the connection's turn to use the
// driver's buffers if it waits for that.
func (c *Conn) waitToSend(size int, first bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stalled := false
	for {
		if err := c.writeError(); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
		if c.typ == TypeSeqpacket && first && int64(size) > int64(c.peerAlloc) {
			return syscall.EMSGSIZE
		}
		queued := c.waiting.queued.Load()
		if !queued && c.credit() > 0 {
			if stalled {
				c.stall.Stop()
			}
			return nil
		}
		if c.turn {
			c.mu.Unlock()
			c.dev.ring.leave(c) // others have credit
			c.mu.Lock()
			continue
		}
		if !queued && !stalled {
			stalled = true
			if c.stall == nil {
				c.stall = time.AfterFunc(stallTime, c.askForCredit)
			} else {
				c.stall.Reset(stallTime)
			}
		}
		c.wcond.Wait()
	}
}

func (c *Conn) askForCredit() {
	c.mu.Lock()
	ask := c.state == stateEstablished && c.credit() == 0
	if ask {
		c.pending |= pendCreditRequest
	}
	c.mu.Unlock()
	if ask {
		c.dev.ring.post(c)
	}
}

// ReadFrom implements io.ReaderFrom: it sends what r has until end of file. On a
// SOCK_SEQPACKET connection each Read of r is a message, of at most 64 KiB.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := r.Read(*buf)
		if n > 0 {
			m, werr := c.write((*buf)[:n], 0)
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
