package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestSeqpacket(t *testing.T) {
	a, b := pair(t, Options{}, guestOptions{})
	c1, c2 := pipe(t, a, b, TypeSeqpacket)
	sizes := []int{1, 5000, 64 << 10, 3, 200 << 10, 2}
	go func() {
		for i, n := range sizes {
			if _, err := c1.WriteMessage(bytes.Repeat([]byte{byte(i)}, n), i%2 == 1); err != nil {
				t.Error(err)
			}
		}
		c1.CloseWrite()
	}()
	buf := make([]byte, 256<<10)
	for i, want := range sizes {
		p := buf
		if i == 3 {
			p = buf[:1]
		}
		n, eor, err := c2.ReadMessage(p)
		if i == 3 {
			if n != 1 || !errors.Is(err, io.ErrShortBuffer) {
				t.Errorf("message %d cut: %d bytes, %v", i, n, err)
			}
			continue
		}
		if n != want || eor != (i%2 == 1) || err != nil || buf[0] != byte(i) || buf[n-1] != byte(i) {
			t.Errorf("message %d of %d bytes: got %d, eor %v, %v", i, want, n, eor, err)
		}
	}
	if n, err := c2.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v", n, err)
	}
	if _, err := c2.Write(make([]byte, 256<<10+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("Write of too much: %v", err)
	}
}

func TestSeqpacketPackets(t *testing.T) {
	d, g := start(t, Options{Window: 1024}, guestOptions{})
	c := accepted(t, d, g, TypeSeqpacket, 100)
	rw := func(flags uint32, data string) {
		h := from(OpRW, 100, 0)
		h.Type, h.Flags = TypeSeqpacket, flags
		g.send(h, data)
	}
	rw(0, "on")
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read of half a message: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	rw(0, "")
	rw(SeqEOM, "e")
	rw(SeqEOM, "") // empty: dropped
	rw(0, "tw")
	rw(SeqEOM|SeqEOR, "") // ends the message
	for _, want := range []string{"one", "tw"} {
		b := make([]byte, 9)
		n, eor, err := c.ReadMessage(b)
		if string(b[:n]) != want || eor != (want == "tw") || err != nil {
			t.Errorf("message %q, eor %v, %v; want %q", b[:n], eor, err, want)
		}
	}
	// More messages than may be queued, though not more bytes.
	for range 1024/minMessage + 1 {
		rw(SeqEOM, "x")
	}
	p := g.recv()
	for p.Op == OpCreditUpdate { // of the messages that were read
		p = g.recv()
	}
	if p.Op != OpRst {
		t.Errorf("guest got %v %+v, want %v", p.Op, p.Header, OpRst)
	}
	c.Close()
	wantSlots(t, d, 0)
}

// A message longer than the credit left must not wait for ever.
func TestSeqpacketCredit(t *testing.T) {
	a, b := pair(t, Options{Window: 4000}, guestOptions{})
	c1, c2 := pipe(t, a, b, TypeSeqpacket)
	go func() {
		for range 200 {
			c1.Write(make([]byte, 480))
			c1.Write(make([]byte, 4000))
		}
	}()
	buf := make([]byte, 8000)
	for i := range 400 {
		want := 480 + i%2*3520
		if n, err := c2.Read(buf); n != want || err != nil {
			t.Fatalf("message %d: %d, %v", i, n, err)
		}
	}
}

func TestSeqpacketDeadlineResets(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{rxSize: HeaderSize + 10, entries: 2, noReceive: true})
	l, err := d.ListenSeqpacket(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	g.post(2)
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Type: TypeSeqpacket, Op: OpRequest, BufAlloc: 1000}, "")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Write(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %v", err)
	}
	g.expect(OpResponse)
	g.expect(OpRW)
	g.expect(OpRst)
	wantSlots(t, d, 0)
}

func TestSeqpacketNotNegotiated(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{noSeqpacket: true})
	if _, err := d.DialSeqpacket(context.Background(), 1); !errors.Is(err, syscall.EPROTONOSUPPORT) {
		t.Errorf("Dial = %v", err)
	}
	if _, err := d.ListenSeqpacket(hostPort); err != nil {
		t.Fatal(err)
	}
	g.send(Header{SrcPort: 1, DstPort: hostPort, Type: TypeSeqpacket, Op: OpRequest}, "")
	g.expect(OpRst)
}
