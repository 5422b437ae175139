package vsock

import (
	"bytes"
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestListener(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{entries: 256})
	l, err := d.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(hostPort); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen = %v", err)
	}
	request := func(port uint32) Op {
		g.send(Header{SrcPort: port, DstPort: hostPort, Op: OpRequest}, "")
		return g.recv().Op
	}
	for i := range uint32(d.backlog) {
		if op := request(i); op != OpResponse {
			t.Fatalf("request %d: %v", i, op)
		}
	}
	if op := request(1000); op != OpRst {
		t.Errorf("request beyond the backlog: %v", op)
	}
	if _, err := l.Accept(); err != nil {
		t.Error(err)
	}
	if op := request(1001); op != OpResponse {
		t.Errorf("request after accept: %v", op)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range d.backlog {
		g.expect(OpRst)
	}
	wantSlots(t, d, 1)
	if op := request(1002); op != OpRst {
		t.Errorf("request after close: %v", op)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	}
}

func TestConnectionLimit(t *testing.T) {
	d, g := start(t, Options{MaxConns: 3, MaxBuffer: 600 << 10}, guestOptions{})
	l, err := d.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for i, window := range []uint32{256 << 10, 256 << 10, smallWindow} {
		g.send(Header{SrcPort: uint32(i), DstPort: hostPort, Op: OpRequest}, "")
		if p := g.expect(OpResponse); p.BufAlloc != window {
			t.Errorf("connection %d has %d bytes of credit, want %d", i, p.BufAlloc, window)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	g.send(Header{SrcPort: 9, DstPort: hostPort, Op: OpRequest}, "")
	g.expect(OpRst)
	if _, err := d.Dial(context.Background(), 1); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Dial = %v", err)
	}
	// A connection that waits for the guest to acknowledge its end makes room.
	conns[1].Close()
	g.expect(OpShutdown)
	g.send(Header{SrcPort: 9, DstPort: hostPort, Op: OpRequest}, "")
	seen := map[Op]uint32{}
	for range 2 {
		p := g.recv()
		seen[p.Op] = p.DstPort
	}
	if seen[OpRst] != 1 || seen[OpResponse] != 9 {
		t.Errorf("guest got %v", seen)
	}
	wantSlots(t, d, 3)
}

func TestReset(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{noReceive: true})
	l, err := d.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRequest, BufAlloc: 1000}, "")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	go func() { _, err := c.Write([]byte("x")); errs <- err }()
	go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := d.Dial(context.Background(), 5); errs <- err }()
	eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.slots == 2
	})
	d.Reset()
	for range 3 {
		if err := <-errs; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after reset: %v", err)
		}
	}
	d.Reset()
	wantSlots(t, d, 0)
	if _, err := d.Dial(context.Background(), 5); !errors.Is(err, ErrNotReady) {
		t.Errorf("Dial = %v", err)
	}
	g = newGuest(t, d, guestOptions{})
	g.send(Header{SrcPort: guestPort, DstPort: hostPort, Op: OpRequest, BufAlloc: 1000}, "")
	g.expect(OpResponse)
	if _, err := l.Accept(); err != nil {
		t.Error(err)
	}
}

func TestBrokenDriver(t *testing.T) {
	tests := map[string]func(g *fakeGuest){
		"receive buffer shorter than a header": func(g *fakeGuest) {
			q := g.queues[queueRX]
			q.add(0, HeaderSize-1)
			q.kick.Signal()
		},
		"readable receive buffer": func(g *fakeGuest) {
			q := g.queues[queueRX]
			q.writable = false
			q.add(0, linuxBuffer)
			q.kick.Signal()
		},
		"writable transmit buffer": func(g *fakeGuest) {
			q := g.queues[queueTX]
			q.writable = true
			q.add(0, 100)
			q.kick.Signal()
		},
		"avail index": func(g *fakeGuest) {
			q := g.queues[queueTX]
			q.SetAvailableIdx(1000)
			q.kick.Signal()
		},
	}
	for name, breakIt := range tests {
		t.Run(name, func(t *testing.T) {
			d, g := start(t, Options{}, guestOptions{noReceive: true})
			done := make(chan error)
			go func() { _, err := d.Dial(context.Background(), 5); done <- err }()
			eventually(t, func() bool {
				d.mu.Lock()
				defer d.mu.Unlock()
				return d.slots == 1
			})
			breakIt(g)
			if err := <-g.failed; err == nil {
				t.Error("Fail(nil)")
			}
			if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Dial = %v", err)
			}
			if _, err := d.Dial(context.Background(), 5); !errors.Is(err, ErrNotReady) {
				t.Errorf("Dial = %v", err)
			}
		})
	}
}

func TestTransportReset(t *testing.T) {
	d, g := start(t, Options{}, guestOptions{})
	c := accepted(t, d, g, TypeStream, 100)
	d.TransportReset(9)
	wantRead(t, c, syscall.ECONNRESET)
	var config [12]byte
	d.ReadConfig(0, config[:])
	if !bytes.Equal(config[:], []byte{9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("configuration is %x", config)
	}
	// The event waits for a buffer.
	q := g.queues[queueEvent]
	copy(q.bufs[0], "\xff\xff\xff\xff")
	q.add(0, eventSize)
	q.notify(q.added - 1)
	if _, n, ok := q.wait(nil); !ok || n != eventSize || !bytes.Equal(q.bufs[0], []byte{0, 0, 0, 0}) {
		t.Errorf("event is %x of %d bytes", q.bufs[0], n)
	}
	// Only one.
	q.add(1, eventSize)
	q.kick.Signal()
	d.TransportReset(guestCID)
	if _, _, ok := q.wait(nil); !ok {
		t.Error("no second event")
	}
	// Until the driver offers a buffer again it may still end what is new.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial before the driver has handled the event: %v", err)
	}
	wantSlots(t, d, 0)
	dialed := make(chan error)
	go func() { _, err := d.Dial(t.Context(), 5); dialed <- err }()
	q.add(0, eventSize)
	q.kick.Signal()
	h := g.expect(OpRequest)
	g.send(Header{SrcPort: 5, DstPort: h.SrcPort, Op: OpResponse, BufAlloc: 100}, "")
	if err := <-dialed; err != nil {
		t.Errorf("Dial after the driver has handled the event: %v", err)
	}
}
