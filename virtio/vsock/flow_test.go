package vsock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// writing starts a Write and returns what delivers its result.
func writing(c *Conn, s string) <-chan error {
	done := make(chan error, 1)
	go func() {
		n, err := c.Write([]byte(s))
		if err == nil && n != len(s) {
			err = fmt.Errorf("%d of %d bytes written", n, len(s))
		}
		done <- err
	}()
	return done
}

func TestSendCredit(t *testing.T) {
	const unit = 4 << 10 // of the credit; packets are few
	for name, base := range map[string]uint32{"from zero": 0, "counters wrap": 1<<32 - 12*unit} {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{}, guestOptions{rxSize: HeaderSize + maxPacket})
			c := accepted(t, d, g, TypeStream, 10*unit)
			c.mu.Lock()
			c.txCnt, c.peerFwd = base, base
			c.mu.Unlock()
			text := func(s string) string {
				var b strings.Builder
				for _, r := range s {
					b.WriteString(strings.Repeat(string(r), unit))
				}
				return b.String()
			}
			done := writing(c, text("0123456789abcdefghijklmnopqrstu"))
			expect := func(want string) {
				t.Helper()
				if p := g.expect(OpRW); string(p.data) != text(want) {
					t.Errorf("guest got %d bytes from %q, want %q", len(p.data), p.data[:1], want)
				}
			}
			update := func(bufAlloc, fwdCnt uint32) {
				t.Helper()
				g.send(from(OpCreditUpdate, bufAlloc*unit, base+fwdCnt*unit), "")
			}
			expect("0123456789")
			update(10, 4)
			expect("abcd")
			update(10, 3) // stale
			g.silent()
			update(10, 15) // more than was sent
			g.silent()
			update(4, 5) // shrinks below what is in flight
			g.silent()
			update(4, 14)
			expect("efgh")
			g.send(from(OpCreditUpdate, 1<<32-1, base+14*unit), "") // enormous
			expect("ijklmnopqrstu")
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCreditIsAskedFor(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 1)
	done := writing(c, "ab")
	g.expect(OpRW)
	g.expect(OpCreditRequest)
	g.send(from(OpCreditUpdate, 1, 1), "")
	g.expect(OpRW)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Linux resets a connection that has too many packets queued, however small.
func TestSmallPacketsInFlight(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 4*packetCost)
	var done <-chan error
	for range 5 {
		done = writing(c, "x")
		if len(done) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for range 4 {
		g.expect(OpRW)
	}
	g.silent()
	g.send(from(OpCreditUpdate, 4*packetCost, 1), "")
	g.expect(OpRW)
	<-done
}

func TestReceiveCredit(t *testing.T) {
	for name, base := range map[string]uint32{"from zero": 0, "counters wrap": 1<<32 - 30} {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{Window: 100}, guestOptions{})
			c := accepted(t, d, g, TypeStream, 100)
			c.mu.Lock()
			c.rxCnt, c.fwdCnt, c.told = base, base, base
			c.mu.Unlock()
			g.send(from(OpCreditRequest, 100, 0), "")
			if p := g.expect(OpCreditUpdate); p.BufAlloc != 100 || p.FwdCnt != base {
				t.Errorf("credit update is %+v", p.Header)
			}
			s := strings.Repeat("0123456789", 10)
			g.send(from(OpRW, 100, 0), s)
			if got := read(t, c, 49); got != s[:49] {
				t.Errorf("read %q", got)
			}
			g.silent() // less than half of it
			read(t, c, 1)
			if p := g.expect(OpCreditUpdate); p.FwdCnt != base+50 {
				t.Errorf("credit update is %+v", p.Header)
			}
			g.send(from(OpRW, 100, 0), s[:50])
			if got := read(t, c, 60); got != s[50:]+s[:10] {
				t.Errorf("read %q", got)
			}
			g.expect(OpCreditUpdate)
			g.send(from(OpRW, 100, 0), s[:60])
			g.silent()
			g.send(from(OpRW, 100, 0), "x") // one too many
			g.expect(OpRst)
			read(t, c, 100)
			wantRead(t, c, syscall.ENOBUFS)
		})
	}
}

// TestCreditForSmallBuffer has a guest that sends no more than its own buffer
// takes, as Linux does.
func TestCreditForSmallBuffer(t *testing.T) {
	for _, c := range []struct {
		typ          Type
		own          uint32
		less, enough int
	}{
		{TypeStream, 20, 9, 10},
		{TypeStream, 1000, 49, 50},
		{TypeSeqpacket, 80, 9, 10},
	} {
		d, g := start(t, Options{Window: 100}, guestOptions{})
		conn := accepted(t, d, g, c.typ, c.own)
		message := from(OpRW, c.own, 0)
		if c.typ == TypeSeqpacket {
			message.Type, message.Flags = TypeSeqpacket, SeqEOM
		}
		g.send(message, strings.Repeat("x", c.less))
		read(t, conn, c.less)
		g.silent()
		g.send(message, strings.Repeat("x", c.enough-c.less))
		read(t, conn, c.enough-c.less)
		if p := g.expect(OpCreditUpdate); p.FwdCnt != uint32(c.enough) {
			t.Errorf("buffer of %d: credit update is %+v", c.own, p.Header)
		}
	}
}

func TestCreditForShrunkBuffer(t *testing.T) {
	d, g := start(t, Options{Window: 100}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	g.send(from(OpRW, 100, 0), strings.Repeat("x", 40))
	read(t, c, 40)
	g.send(from(OpCreditUpdate, 82, 0), "")
	g.silent()
	g.send(from(OpCreditUpdate, 80, 0), "")
	if p := g.expect(OpCreditUpdate); p.FwdCnt != 40 {
		t.Errorf("credit update is %+v", p.Header)
	}
	g.send(from(OpCreditUpdate, 0, 0), "")
	g.silent() // there is nothing to tell
}

func TestCreditGrows(t *testing.T) {
	for name, c := range map[string]struct {
		budget uint64
		own    uint32 // the guest's receive buffer
		want   []uint32
	}{
		"with room":          {1 << 20, 1000, []uint32{100, 100, 100, 200, 400, 400}},
		"for one step":       {500, 1000, []uint32{100, 100, 100, 200, 200, 200}},
		"without room":       {250, 1000, []uint32{100, 100, 100, 100, 100, 100}},
		"for a small sender": {1 << 20, 100, []uint32{100, 100, 100, 100, 100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{Window: 100, MaxBuffer: c.budget}, guestOptions{})
			conn := accepted(t, d, g, TypeStream, c.own)
			size := uint32(100)
			for i, want := range c.want {
				g.send(from(OpRW, c.own, 0), strings.Repeat("x", int(size)))
				read(t, conn, int(size))
				if p := g.expect(OpCreditUpdate); p.BufAlloc != want {
					t.Fatalf("update %d is %+v, want %d", i, p.Header, want)
				}
				size = want
			}
			conn.Close()
			g.expect(OpShutdown)
			g.send(from(OpRst, 100, 0), "")
			for d.Connections() > 0 {
				time.Sleep(time.Millisecond)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.buffers != 0 {
				t.Errorf("%d bytes are still taken", d.buffers)
			}
		})
	}
}

func TestCreditUpdateTravelsWithData(t *testing.T) {
	d, g := start(t, Options{Window: 100}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	g.send(from(OpRW, 100, 0), "0123456789")
	read(t, c, 10)
	if err := <-writing(c, "x"); err != nil {
		t.Fatal(err)
	}
	if p := g.expect(OpRW); p.FwdCnt != 10 || p.BufAlloc != 100 {
		t.Errorf("RW is %+v", p.Header)
	}
}

// With no receive buffers nothing moves to the guest, nothing piles up, and
// everything else goes on.
func TestReceiveRingNeverFilled(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{noReceive: true})
	l, err := d.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRequest, BufAlloc: 1000}, "")
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := nc.(*Conn)
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %v", err)
	}
	c.SetWriteDeadline(time.Time{})
	done := writing(c, "data")
	g.send(from(OpRW, 1000, 0), "received")
	if s := read(t, c, 8); s != "received" {
		t.Errorf("read %q", s)
	}

	// A flood of what has to be answered, and of connections that come and go.
	var sent sync.WaitGroup
	const flood = 3 * maxResets
	sent.Go(func() {
		for i := range uint32(flood) {
			g.send(Header{SrcPort: i, DstPort: 1, Op: OpRequest}, "")
		}
	})
	eventually(t, func() bool {
		d.ring.mu.Lock()
		defer d.ring.mu.Unlock()
		return len(d.ring.resets) >= maxResets/2
	})
	d.ring.mu.Lock()
	if n := len(d.ring.resets); n > maxResets {
		t.Errorf("%d packets queued", n)
	}
	if n := length(&d.ring.waiting); n != 1 {
		t.Errorf("%d writers wait", n)
	}
	d.ring.mu.Unlock()

	g.fill()
	seen := map[Op]int{}
	for range flood + 2 {
		p := g.recv()
		seen[p.Op]++
		if p.Op == OpRW && string(p.data) != "data" {
			t.Errorf("guest got %q", p.data)
		}
	}
	sent.Wait()
	if seen[OpRst] != flood || seen[OpResponse] != 1 || seen[OpRW] != 1 {
		t.Errorf("guest got %v", seen)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func length(l *list) (n int) {
	for e := l.head; e != nil; e = e.next {
		n++
	}
	return n
}

// Connections that come and go while nothing can be sent leave nothing behind.
func TestChurnWithoutReceiveBuffers(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{noReceive: true})
	l, err := d.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(1000) {
		g.send(Header{SrcPort: i, DstPort: hostPort, Op: OpRequest}, "")
		g.send(Header{SrcPort: i, DstPort: hostPort, Op: OpRst}, "")
		if c, err := l.Accept(); err != nil {
			t.Fatal(err)
		} else {
			c.Close()
		}
	}
	wantSlots(t, d, 0)
	d.ring.mu.Lock()
	defer d.ring.mu.Unlock()
	if n := length(&d.ring.control); n > 0 {
		t.Errorf("%d connections left", n)
	}
}

// A reader that does not read, and writers without credit, stall nobody else.
func TestSlowPeersStallNobody(t *testing.T) {
	a, b := pair(t, Options{}, guestOptions{})
	for range 4 {
		c1, c2 := pipe(t, a, b, TypeStream)
		defer c1.Close()
		defer c2.Close()
		for _, c := range []*Conn{c1, c2} {
			go func() {
				for {
					if _, err := c.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
			}()
		}
	}
	c1, c2 := pipe(t, a, b, TypeStream)
	const size = 8 << 20
	go func() {
		c1.Write(make([]byte, size))
		c1.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c2)
	if n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Writers share the driver's buffers.
func TestWritersTakeTurns(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{noReceive: true, rxSize: HeaderSize + 100})
	const writers, size = 4, 3200
	for i := range uint32(writers) {
		l, err := d.Listen(hostPort + i)
		if err != nil {
			t.Fatal(err)
		}
		g.send(Header{SrcPort: guestPort, DstPort: hostPort + i, Op: OpRequest, BufAlloc: 1 << 20}, "")
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go c.Write(make([]byte, size))
	}
	eventually(t, func() bool {
		d.ring.mu.Lock()
		defer d.ring.mu.Unlock()
		return length(&d.ring.waiting) == writers
	})
	q := g.queues[queueRX]
	got := map[uint32]int{}
	for range writers { // the responses
		g.post(1)
		i, n, _ := q.wait(nil)
		g.parse(i, n)
		q.free = append(q.free, i)
	}
	for total := 0; total < writers*size; {
		g.post(1)
		i, n, _ := q.wait(nil)
		p := g.parse(i, n)
		q.free = append(q.free, i)
		got[p.SrcPort] += int(p.Len)
		total += int(p.Len)
		low, high := size, 0
		for w := range uint32(writers) {
			low, high = min(low, got[hostPort+w]), max(high, got[hostPort+w])
		}
		if high-low > 200 {
			t.Fatalf("unfair: %v", got)
		}
	}
}
