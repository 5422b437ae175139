package vsock

import (
	"io"
	"net"
	"os"
	"testing"
)

// drain makes the guest throw away what it gets and give credit at once.
func drain(b *testing.B, g *fakeGuest, quit chan struct{}) {
	q := g.queues[queueRX]
	var fwd, told uint32
	for {
		i, n, ok := q.wait(quit)
		if !ok {
			return
		}
		h, err := ParseHeader(q.bufs[i][:n])
		if err != nil {
			b.Error(err)
			return
		}
		q.free = append(q.free, i)
		fwd += h.Len
		if len(q.free) >= len(q.bufs)/2 || q.UsedIdx() == q.added-uint16(len(q.owner)) {
			g.post(len(q.free))
		}
		if fwd-told >= 128<<10 {
			told = fwd
			g.send(Header{SrcPort: h.DstPort, DstPort: h.SrcPort, Op: OpCreditUpdate, BufAlloc: 256 << 10, FwdCnt: fwd}, "")
		}
	}
}

func benchAccepted(b *testing.B, d *Device, g *fakeGuest) *Conn {
	l, err := d.Listen(1024)
	if err != nil {
		b.Fatal(err)
	}
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRequest, BufAlloc: 256 << 10}, "")
	g.expect(OpResponse)
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return c.(*Conn)
}

const benchWrite = 64 << 10

// BenchmarkToGuest: Write, with a Linux driver's receive buffers and with
// larger ones.
func BenchmarkToGuest(b *testing.B) {
	for name, size := range map[string]int{"linux": linuxBuffer, "64K": HeaderSize + maxPacket} {
		b.Run(name, func(b *testing.B) {
			d := newDevice(Options{})
			g := newGuest(b, d, guestOptions{rxSize: size, entries: 256})
			c := benchAccepted(b, d, g)
			quit := make(chan struct{})
			done := make(chan struct{})
			go func() { drain(b, g, quit); close(done) }()
			p := make([]byte, benchWrite)
			b.SetBytes(benchWrite)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(p); err != nil {
					b.Fatal(err)
				}
			}
			close(quit)
			<-done
		})
	}
}

// flood makes the guest send packets of size bytes, as credit allows.
func flood(g *fakeGuest, size int, total int64) {
	q := g.queues[queueRX]
	p := make([]byte, HeaderSize+size)
	h := Header{SrcCID: guestCID, DstCID: HostCID, SrcPort: guestPort, DstPort: hostPort, Type: TypeStream, Op: OpRW,
		Len: uint32(size), BufAlloc: 256 << 10}
	var sent, fwd uint32
	for total > 0 {
		for sent-fwd+uint32(size) > 256<<10 {
			i, n, ok := q.wait(nil)
			if !ok {
				return
			}
			if h, err := ParseHeader(q.bufs[i][:n]); err == nil {
				fwd = h.FwdCnt
			}
			q.free = append(q.free, i)
			g.post(1)
		}
		h.Put(p)
		g.sendRaw(p, nil)
		sent += uint32(size)
		total -= int64(size)
	}
}

// BenchmarkFromGuest: Read into a large and a small buffer, and WriteTo a pipe.
func BenchmarkFromGuest(b *testing.B) {
	run := func(b *testing.B, size int, sink func(c *Conn, n int64)) {
		d := newDevice(Options{})
		g := newGuest(b, d, guestOptions{entries: 64})
		c := benchAccepted(b, d, g)
		b.SetBytes(benchWrite)
		b.ReportAllocs()
		b.ResetTimer()
		total := int64(b.N) * benchWrite
		go flood(g, size, total)
		sink(c, total)
	}
	reader := func(size int) func(c *Conn, n int64) {
		return func(c *Conn, n int64) {
			p := make([]byte, size)
			for n > 0 {
				m, err := c.Read(p)
				if err != nil {
					b.Fatal(err)
				}
				n -= int64(m)
			}
		}
	}
	b.Run("Read256K", func(b *testing.B) { run(b, 64<<10, reader(256<<10)) })
	b.Run("Read32K", func(b *testing.B) { run(b, 64<<10, reader(32<<10)) })
	b.Run("Packets4K", func(b *testing.B) { run(b, 4<<10, reader(64<<10)) })
	b.Run("WriteToPipe", func(b *testing.B) {
		run(b, 64<<10, func(c *Conn, n int64) {
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			go func() { c.WriteTo(w); w.Close() }()
			if _, err := io.CopyN(io.Discard, r, n); err != nil {
				b.Fatal(err)
			}
			c.Close()
		})
	})
}

// BenchmarkEcho sends through two devices and back.
func BenchmarkEcho(b *testing.B) {
	for name, size := range map[string]int{"linux": linuxBuffer, "64K": HeaderSize + maxPacket} {
		b.Run(name, func(b *testing.B) {
			d1, d2 := pair(b, Options{}, guestOptions{rxSize: size, entries: 256})
			c1, c2 := pipe(b, d1, d2, TypeStream)
			defer c2.Close()
			defer c1.Close()
			go io.Copy(c2, struct{ io.Reader }{c2})
			b.SetBytes(benchWrite)
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				p := make([]byte, benchWrite)
				for range b.N {
					c1.Write(p)
				}
			}()
			if _, err := io.CopyN(io.Discard, c1, int64(b.N)*benchWrite); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRoundTrip sends one byte through two devices and back.
func BenchmarkRoundTrip(b *testing.B) {
	d1, d2 := pair(b, Options{}, guestOptions{})
	c1, c2 := pipe(b, d1, d2, TypeStream)
	defer c2.Close()
	defer c1.Close()
	go io.Copy(c2, struct{ io.Reader }{c2})
	p := []byte{0}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c1.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c1, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDial connects and closes.
func BenchmarkDial(b *testing.B) {
	d1, d2 := pair(b, Options{}, guestOptions{})
	l, err := d2.Listen(1024)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { io.Copy(io.Discard, c); c.Close() }(c)
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := d1.Dial(b.Context(), 1024)
		if err != nil {
			b.Fatal(err)
		}
		c.CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
