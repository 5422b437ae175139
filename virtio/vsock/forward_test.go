package vsock

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// filled is a Conn that writes with SendFrom.
type filled struct{ *Conn }

func (c filled) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := c.SendFrom(func(bufs [][]byte) (int, error) {
			m := 0
			for _, b := range bufs {
				m += copy(b, p[n+m:])
			}
			return m, nil
		})
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func TestSendFromIsWrite(t *testing.T) {
	for name, o := range map[string]guestOptions{
		"linux": {},
		"large": {rxSize: HeaderSize + maxPacket},
		"small": {rxSize: HeaderSize + 1000, entries: 4},
		"tiny":  {rxSize: HeaderSize + 1, entries: 128},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "tiny" {
				a, b := pair(t, Options{}, o)
				c1, c2 := pipe(t, a, b, TypeStream)
				go filled{c1}.Write(bytes.Repeat([]byte("x"), 1000))
				if _, err := io.ReadFull(c2, make([]byte, 1000)); err != nil {
					t.Error(err)
				}
				return
			}
			a, b := pair(t, Options{}, o)
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				c1, c2 := pipe(t, a, b, TypeStream)
				return filled{c1}, filled{c2}, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

func TestSendFromNothing(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 1<<20)
	want := errors.New("nothing there")
	n, err := c.SendFrom(func(bufs [][]byte) (int, error) {
		if len(bufs) == 0 || len(bufs[0]) == 0 {
			t.Error("no room")
		}
		return 0, want
	})
	if n != 0 || err != want {
		t.Errorf("SendFrom = %d, %v", n, err)
	}
	g.silent() // and the buffers are still there for others
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Error(err)
	}
	if p := g.expect(OpRW); string(p.data) != "abc" {
		t.Errorf("guest got %q", p.data)
	}
	// A guest that gives no credit does not get fill called.
	g.send(from(OpCreditUpdate, 3, 0), "")
	g.silent() // it was taken
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.SendFrom(func([][]byte) (int, error) { t.Error("called"); return 0, nil }); err == nil {
		t.Error("no error without credit")
	}
	// More than there is room for is cut.
	g.send(from(OpCreditUpdate, 10, 3), "")
	g.silent()
	c.SetWriteDeadline(time.Time{})
	n, err = c.SendFrom(func(bufs [][]byte) (int, error) { return 1 << 30, nil })
	if n != 10 || err != nil {
		t.Errorf("SendFrom = %d, %v", n, err)
	}
	if p := g.expect(OpRW); len(p.data) != 10 {
		t.Errorf("guest got %d bytes", len(p.data))
	}
}

// sink is a slow taker.
type sink struct {
	mu    sync.Mutex
	got   bytes.Buffer
	conn  *Conn
	rests int
	ended chan error
}

func newSink(c *Conn) *sink {
	s := &sink{conn: c, ended: make(chan error, 2)}
	c.Forward(s.take, s.rest)
	return s
}

func (s *sink) take(bufs [][]byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, b := range bufs {
		m := len(b)
		if rand.IntN(3) == 0 {
			m = rand.IntN(len(b) + 1)
		}
		s.got.Write(b[:m])
		n += m
		if m < len(b) {
			break
		}
	}
	return n
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func (s *sink) rest() {
	s.mu.Lock()
	s.rests++
	s.mu.Unlock()
	if err := s.conn.WriteBuffered(s); err != nil {
		s.ended <- err
	}
}

func TestForward(t *testing.T) {
	a, b := pair(t, Options{}, guestOptions{})
	c1, c2 := pipe(t, a, b, TypeStream)
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(i >> 8 * i)
	}
	if _, err := c1.Write(want[:1000]); err != nil { // before Forward
		t.Fatal(err)
	}
	s := newSink(c2)
	go func() {
		for p := want[1000:]; len(p) > 0; {
			n := min(len(p), 1+rand.IntN(100_000))
			if _, err := c1.Write(p[:n]); err != nil {
				t.Error(err)
				return
			}
			p = p[n:]
		}
		c1.CloseWrite()
	}()
	if err := <-s.ended; err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	if !bytes.Equal(s.got.Bytes(), want) {
		t.Error("other bytes arrived")
	}
	if s.rests < 2 {
		t.Errorf("rest was called %d times: nothing was tested", s.rests)
	}
	c1.Close()
	c2.Close()
	select {
	case err := <-s.ended:
		t.Errorf("a second end: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
}

func TestForwardEnds(t *testing.T) {
	for _, c := range []struct {
		name    string
		end     func(c *Conn, g *fakeGuest)
		want    error
		orderly bool
	}{
		{"closed", func(_ *Conn, g *fakeGuest) {
			h := from(OpShutdown, 100, 0)
			h.Flags = shutdownBoth
			g.send(h, "")
		}, net.ErrClosed, true},
		{"shut down", func(_ *Conn, g *fakeGuest) {
			h := from(OpShutdown, 100, 0)
			h.Flags = ShutdownSend
			g.send(h, "")
		}, io.EOF, false},
		{"reset", func(_ *Conn, g *fakeGuest) { g.send(from(OpRst, 100, 0), "") }, syscall.ECONNRESET, false},
		{"closed here", func(c *Conn, _ *fakeGuest) { c.Abort() }, net.ErrClosed, false},
		{"device reset", func(c *Conn, _ *fakeGuest) { c.dev.Reset() }, syscall.ECONNRESET, false},
	} {
		for _, before := range []bool{true, false} {
			d, g := start(t, Options{}, guestOptions{})
			conn := accepted(t, d, g, TypeStream, 100)
			if before {
				c.end(conn, g)
				eventually(t, func() bool {
					conn.mu.Lock()
					defer conn.mu.Unlock()
					return conn.state == stateDead || conn.peerShut != 0
				})
			}
			s := newSink(conn)
			over := make(chan bool, 1)
			conn.OnEnd(func(orderly bool) { over <- orderly })
			if !before {
				c.end(conn, g)
			}
			if err := <-s.ended; !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
			if c.want == io.EOF {
				select {
				case <-over:
					t.Errorf("%s: over", c.name)
				default:
				}
			} else if orderly := <-over; orderly != c.orderly {
				t.Errorf("%s: orderly %v", c.name, orderly)
			}
			conn.Close()
		}
	}
}

func TestSeqpacketLimit(t *testing.T) {
	d, g := start(t, Options{MaxSeqpacket: 2, MaxBuffer: 300 << 10}, guestOptions{})
	l, err := d.ListenSeqpacket(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for i, window := range []uint32{256 << 10, seqpacketWindow} {
		g.send(Header{SrcPort: uint32(i), DstPort: hostPort, Op: OpRequest, Type: TypeSeqpacket}, "")
		if p := g.expect(OpResponse); p.BufAlloc != window {
			t.Errorf("connection %d has %d bytes of credit, want %d", i, p.BufAlloc, window)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	g.send(Header{SrcPort: 9, DstPort: hostPort, Op: OpRequest, Type: TypeSeqpacket}, "")
	g.expect(OpRst)
	conns[0].(*Conn).Abort()
	g.expect(OpRst)
	g.send(Header{SrcPort: 9, DstPort: hostPort, Op: OpRequest, Type: TypeSeqpacket}, "")
	g.expect(OpResponse)
}

func TestMessageSize(t *testing.T) {
	a, b := pair(t, Options{}, guestOptions{})
	c1, c2 := pipe(t, a, b, TypeSeqpacket)
	go func() {
		c1.Write(make([]byte, 100))
		c1.Write(make([]byte, 70_000))
		c1.CloseWrite()
	}()
	total := uint32(0)
	for _, want := range []int{100, 70_000} {
		n, err := c2.MessageSize()
		if n != want || err != nil {
			t.Fatalf("MessageSize = %d, %v, want %d", n, err, want)
		}
		if n, _, err := c2.ReadMessage(make([]byte, n)); n != want || err != nil {
			t.Fatalf("ReadMessage = %d, %v, want %d", n, err, want)
		}
		if total += uint32(want); c2.Received() < total {
			t.Errorf("received %d of at least %d", c2.Received(), total)
		}
	}
	if _, err := c2.MessageSize(); err != io.EOF {
		t.Errorf("MessageSize at the end: %v", err)
	}
}
