package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	hostPort  = 1024
	guestPort = 77
)

// start returns a device with a guest.
func start(t *testing.T, o Options, g guestOptions) (*Device, *fakeGuest) {
	t.Helper()
	d := newDevice(o)
	return d, newGuest(t, d, g)
}

// accepted returns a connection that the guest has made, with the buffer size
// that the guest tells.
func accepted(t *testing.T, d *Device, g *fakeGuest, typ Type, bufAlloc uint32) *Conn {
	t.Helper()
	l, err := d.listen(typ, hostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Type: typ, Op: OpRequest, BufAlloc: bufAlloc}, "")
	p := g.expect(OpResponse)
	if p.BufAlloc != d.window || p.FwdCnt != 0 || p.SrcPort != hostPort || p.DstPort != guestPort || p.Type != typ {
		t.Fatalf("RESPONSE is %+v", p.Header)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

// from is a header of the accepted connection, from the guest.
func from(op Op, bufAlloc, fwdCnt uint32) Header {
	return Header{SrcPort: guestPort, DstPort: hostPort, Op: op, BufAlloc: bufAlloc, FwdCnt: fwdCnt}
}

// read reads exactly n bytes.
func read(t *testing.T, c *Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantRead(t *testing.T, c *Conn, want error) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, want) {
		t.Errorf("Read = %d, %v; want %v", n, err, want)
	}
}

func wantWrite(t *testing.T, c *Conn, want error) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte("x")); !errors.Is(err, want) {
		t.Errorf("Write = %v; want %v", err, want)
	}
}

// wantSlots checks the number of connections, once it has settled.
func wantSlots(t *testing.T, d *Device, want int) {
	t.Helper()
	eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.slots == want && len(d.conns) <= want && (want > 0 || d.buffers == 0 && d.closing.head == nil)
	})
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("condition never held")
		}
	}
}

func TestDial(t *testing.T) {
	tests := map[string]struct {
		answer Op
		want   error
		reset  bool // the guest gets an RST
	}{
		"accepted": {OpResponse, nil, false},
		"refused":  {OpRst, syscall.ECONNREFUSED, false},
		"nonsense": {OpRW, syscall.EPROTO, true},
		"request":  {OpRequest, syscall.EPROTO, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{}, guestOptions{})
			done := make(chan error)
			go func() {
				_, err := d.Dial(context.Background(), guestPort)
				done <- err
			}()
			p := g.expect(OpRequest)
			if p.DstPort != guestPort || p.BufAlloc != d.window || p.Type != TypeStream {
				t.Errorf("REQUEST is %+v", p.Header)
			}
			g.send(Header{SrcPort: guestPort, DstPort: p.SrcPort, Op: tt.answer}, "")
			if err := <-done; !errors.Is(err, tt.want) {
				t.Errorf("Dial = %v; want %v", err, tt.want)
			}
			if tt.reset {
				g.expect(OpRst)
			}
			g.silent()
			if tt.want != nil {
				wantSlots(t, d, 0)
			}
		})
	}
}

func TestDialGivesUp(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := d.Dial(ctx, guestPort)
		done <- err
	}()
	g.expect(OpRequest)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v", err)
	}
	g.expect(OpRst)
	wantSlots(t, d, 0)

	if _, err := newDevice(Options{}).Dial(context.Background(), 1); !errors.Is(err, ErrNotReady) {
		t.Errorf("Dial without a driver = %v", err)
	}
}

func TestBadPackets(t *testing.T) {
	const silence = OpInvalid
	raw := func(h Header) []byte {
		b := make([]byte, HeaderSize)
		h.Put(b)
		return b
	}
	base := Header{SrcCID: guestCID, DstCID: HostCID, SrcPort: 5, DstPort: 6, Type: TypeStream, Op: OpRequest}
	with := func(f func(h *Header)) []byte {
		h := base
		f(&h)
		return raw(h)
	}
	tests := map[string]struct {
		packet []byte
		want   Op
	}{
		"empty":                 {nil, silence},
		"short":                 {raw(base)[:HeaderSize-1], silence},
		"spoofed source":        {with(func(h *Header) { h.SrcCID = 4 }), silence},
		"from the host":         {with(func(h *Header) { h.SrcCID = HostCID }), silence},
		"CID with high bits":    {with(func(h *Header) { h.SrcCID |= 1 << 40 }), silence},
		"to another guest":      {with(func(h *Header) { h.DstCID = 7 }), OpRst},
		"RST to another guest":  {with(func(h *Header) { h.DstCID, h.Op = 7, OpRst }), silence},
		"no listener":           {raw(base), OpRst},
		"unknown type":          {with(func(h *Header) { h.Type = 3 }), OpRst},
		"RST of unknown type":   {with(func(h *Header) { h.Type, h.Op = 3, OpRst }), silence},
		"operation 0":           {with(func(h *Header) { h.Op = 0 }), OpRst},
		"operation 8":           {with(func(h *Header) { h.Op = 8 }), OpRst},
		"operation 65535":       {with(func(h *Header) { h.Op = 65535 }), OpRst},
		"data for nobody":       {append(with(func(h *Header) { h.Op, h.Len = OpRW, 3 }), "abc"...), OpRst},
		"length that lies":      {append(with(func(h *Header) { h.Op, h.Len = OpRW, 4 }), "abc"...), OpRst},
		"length of 4 GiB":       {with(func(h *Header) { h.Op, h.Len = OpRW, 1<<32-1 }), OpRst},
		"payload in REQUEST":    {append(with(func(h *Header) { h.Len = 1 }), 'x'), OpRst},
		"RST for nobody":        {with(func(h *Header) { h.Op = OpRst }), silence},
		"RST with payload":      {append(with(func(h *Header) { h.Op, h.Len = OpRst, 1 }), 'x'), silence},
		"RST with a long len":   {with(func(h *Header) { h.Op, h.Len = OpRst, 9 }), silence},
		"SHUTDOWN for nobody":   {with(func(h *Header) { h.Op, h.Flags = OpShutdown, 3 }), OpRst},
		"RESPONSE for nobody":   {with(func(h *Header) { h.Op = OpResponse }), OpRst},
		"credit update, nobody": {with(func(h *Header) { h.Op = OpCreditUpdate }), OpRst},
	}
	d, g := start(t, Options{}, guestOptions{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g.tb = t
			g.sendRaw(tt.packet, nil)
			if tt.want != silence {
				p := g.expect(tt.want)
				if h, err := ParseHeader(tt.packet); err != nil || p.Header != h.reset() {
					t.Errorf("answer to %+v is %+v", h, p.Header)
				}
			}
			g.silent()
		})
	}
	g.tb = t
	wantSlots(t, d, 0)
}

// Packets that do not fit the state of an established connection.
func TestWrongState(t *testing.T) {
	tests := map[string]struct {
		h     Header
		reset bool
	}{
		"REQUEST":         {from(OpRequest, 100, 0), true},
		"RESPONSE":        {from(OpResponse, 100, 0), true},
		"operation 9":     {from(9, 100, 0), true},
		"length lies":     {Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRW, Len: 50}, true},
		"payload":         {Header{SrcPort: guestPort, DstPort: hostPort, Op: OpCreditUpdate, Len: 1}, true},
		"SHUTDOWN of 0":   {from(OpShutdown, 100, 0), false},
		"SHUTDOWN of 4":   {Header{SrcPort: guestPort, DstPort: hostPort, Op: OpShutdown, Flags: 4}, false},
		"empty RW":        {from(OpRW, 100, 0), false},
		"RW with an EOM":  {Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRW, Flags: SeqEOM}, false},
		"credit update":   {from(OpCreditUpdate, 100, 0), false},
		"bogus fwd_cnt":   {from(OpCreditUpdate, 100, 12345), false},
		"no room at all":  {from(OpCreditUpdate, 0, 0), false},
		"enormous buffer": {from(OpCreditUpdate, 1<<32-1, 0), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{}, guestOptions{})
			c := accepted(t, d, g, TypeStream, 100)
			g.send(from(OpRW, 100, 0), "before")
			data := ""
			if tt.h.Len == 1 {
				data = "x"
			}
			g.send(tt.h, data)
			if !tt.reset {
				g.silent()
				g.send(from(OpRW, 100, 0), "after")
				if s := read(t, c, 11); s != "beforeafter" {
					t.Errorf("read %q", s)
				}
				return
			}
			g.expect(OpRst)
			g.silent()
			if s := read(t, c, 6); s != "before" {
				t.Errorf("read %q", s)
			}
			wantRead(t, c, syscall.ECONNRESET)
			wantWrite(t, c, syscall.ECONNRESET)
			c.Close()
			wantSlots(t, d, 0)
		})
	}
}

func TestOtherTypeIsOtherSocket(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	h := from(OpRW, 100, 0)
	h.Type = TypeSeqpacket
	g.send(h, "x")
	if p := g.expect(OpRst); p.Type != TypeSeqpacket {
		t.Errorf("RST is %+v", p.Header)
	}
	g.send(from(OpRW, 100, 0), "y")
	if s := read(t, c, 1); s != "y" {
		t.Errorf("read %q", s)
	}
}

// TestWriteBeforeResponse writes to a connection that was accepted before the
// device came to answer the REQUEST: a guest resets a connection that sends first.
func TestWriteBeforeResponse(t *testing.T) {
	for _, typ := range []Type{TypeStream, TypeSeqpacket} {
		d, g := start(t, Options{}, guestOptions{})
		l, err := d.listen(typ, hostPort)
		if err != nil {
			t.Fatal(err)
		}
		key := connKey{host: hostPort, guest: guestPort}
		asked := d.request(&Header{SrcPort: guestPort, DstPort: hostPort, Type: typ, Op: OpRequest, BufAlloc: 100}, key)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := writing(c.(*Conn), "hello")
		g.expect(OpResponse)
		if p := g.expect(OpRW); string(p.data) != "hello" {
			t.Errorf("guest got %q", p.data)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.ring.post(asked)
		g.silent() // the answer was sent once
	}
}

func TestHalfCloseByGuest(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	g.send(from(OpRW, 100, 0), "data")
	h := from(OpShutdown, 100, 0)
	h.Flags = ShutdownSend
	g.send(h, "")
	g.silent()
	if s := read(t, c, 4); s != "data" {
		t.Errorf("read %q", s)
	}
	wantRead(t, c, io.EOF)
	if _, err := c.Write([]byte("reply")); err != nil {
		t.Fatal(err)
	}
	if p := g.expect(OpRW); string(p.data) != "reply" {
		t.Errorf("guest got %q", p.data)
	}
	h.Flags = ShutdownReceive
	g.send(h, "")
	g.expect(OpRst)
	wantRead(t, c, io.EOF)
	wantWrite(t, c, syscall.EPIPE)
	c.Close()
	g.silent()
	wantSlots(t, d, 0)
}

func TestHalfCloseByHost(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if p := g.expect(OpShutdown); p.Flags != ShutdownSend {
		t.Errorf("SHUTDOWN is %+v", p.Header)
	}
	wantWrite(t, c, syscall.EPIPE)
	g.send(from(OpRW, 100, 0), "late")
	if s := read(t, c, 4); s != "late" {
		t.Errorf("read %q", s)
	}
	g.send(from(OpRW, 100, 0), "lost")
	g.silent()
	if err := c.CloseRead(); err != nil {
		t.Fatal(err)
	}
	wantRead(t, c, io.EOF)
	if p := g.expect(OpShutdown); p.Flags != shutdownBoth {
		t.Errorf("SHUTDOWN is %+v", p.Header)
	}
	g.send(from(OpRst, 0, 0), "")
	wantSlots(t, d, 0)
	c.Close()
	g.silent()
}

func TestClose(t *testing.T) {
	t.Run("orderly", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		c := accepted(t, d, g, TypeStream, 100)
		c.Close()
		if p := g.expect(OpShutdown); p.Flags != shutdownBoth {
			t.Errorf("SHUTDOWN is %+v", p.Header)
		}
		wantSlots(t, d, 1)
		g.send(from(OpRst, 0, 0), "")
		wantSlots(t, d, 0)
		g.silent()
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close = %v", err)
		}
		wantRead(t, c, net.ErrClosed)
		wantWrite(t, c, net.ErrClosed)
	})
	t.Run("answered with SHUTDOWN", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		accepted(t, d, g, TypeStream, 100).Close()
		g.expect(OpShutdown)
		h := from(OpShutdown, 100, 0)
		h.Flags = shutdownBoth
		g.send(h, "")
		g.expect(OpRst)
		wantSlots(t, d, 0)
	})
	t.Run("unread data", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		c := accepted(t, d, g, TypeStream, 100)
		g.send(from(OpRW, 100, 0), "unread")
		g.silent()
		c.Close()
		g.expect(OpRst)
		wantSlots(t, d, 0)
	})
	t.Run("late data", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		accepted(t, d, g, TypeStream, 100).Close()
		g.expect(OpShutdown)
		g.send(from(OpCreditUpdate, 100, 0), "")
		g.silent()
		g.send(from(OpRW, 100, 0), "late")
		g.expect(OpRst)
		wantSlots(t, d, 0)
	})
	t.Run("forgotten by the guest", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		accepted(t, d, g, TypeStream, 100).Close()
		g.expect(OpShutdown)
		c := accepted(t, d, g, TypeStream, 100)
		g.send(from(OpRW, 100, 0), "new")
		if s := read(t, c, 3); s != "new" {
			t.Errorf("read %q", s)
		}
		wantSlots(t, d, 1)
	})
	t.Run("never answered", func(t *testing.T) {
		d, g := start(t, Options{CloseTimeout: time.Millisecond}, guestOptions{})
		accepted(t, d, g, TypeStream, 100).Close()
		for p := g.recv(); p.Op != OpRst; p = g.recv() {
			if p.Op != OpShutdown {
				t.Errorf("guest got %+v", p.Header)
			}
		}
		wantSlots(t, d, 0)
	})
	t.Run("by a reset", func(t *testing.T) {
		d, g := start(t, Options{}, guestOptions{})
		c := accepted(t, d, g, TypeStream, 100)
		g.send(from(OpRW, 100, 0), "data")
		g.send(from(OpRst, 0, 0), "")
		g.silent()
		wantSlots(t, d, 1) // for the data
		if s := read(t, c, 4); s != "data" {
			t.Errorf("read %q", s)
		}
		wantSlots(t, d, 0)
		wantRead(t, c, syscall.ECONNRESET)
	})
}

func TestStrings(t *testing.T) {
	a := Addr{CID: 3, Port: 1 << 31}
	if a.Network() != "vsock" || a.String() != "3:2147483648" {
		t.Errorf("%s %s", a.Network(), a)
	}
	if s := OpRW.String() + Op(8).String(); s != "RWOp(8)" {
		t.Error(s)
	}
	c := newConn(newDevice(Options{}), connKey{1, 2}, TypeStream, 1)
	if s := c.opError("read", os.ErrDeadlineExceeded).Error(); !strings.Contains(s, "2:1->3:2") {
		t.Error(s)
	}
}
