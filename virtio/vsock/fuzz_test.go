package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"runv.dev/runv/virtio/virtqueue"
)

func FuzzHeader(f *testing.F) {
	for _, h := range []Header{
		{},
		{SrcCID: guestCID, DstCID: HostCID, SrcPort: 1, DstPort: 2, Type: TypeStream, Op: OpRequest, BufAlloc: 1 << 18},
		{SrcCID: guestCID, DstCID: HostCID, SrcPort: 1, DstPort: 2, Len: 5, Type: TypeSeqpacket, Op: OpRW, Flags: SeqEOM | SeqEOR, FwdCnt: 1<<32 - 1},
		{SrcCID: 1<<64 - 1, DstCID: 1<<64 - 1, Len: 1<<32 - 1, Type: 1<<16 - 1, Op: 1<<16 - 1, Flags: 1<<32 - 1},
	} {
		var b [HeaderSize]byte
		h.Put(b[:])
		f.Add(b[:], 5)
		f.Add(b[:HeaderSize-1], 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, room int) {
		h, err := ParseHeader(b)
		if (err != nil) != (len(b) < HeaderSize) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if err != nil {
			return
		}
		var out [HeaderSize]byte
		h.Put(out[:])
		if string(out[:]) != string(b[:HeaderSize]) {
			t.Fatalf("%x became %x", b[:HeaderSize], out)
		}
		room = max(0, room)
		for _, seqpacket := range []bool{false, true} {
			switch v := h.check(guestCID, seqpacket, room); {
			case v == verdictAccept && (h.SrcCID != guestCID || h.DstCID != HostCID || int64(h.Len) > int64(room) ||
				h.Op == OpInvalid || h.Op > OpCreditRequest || h.Op != OpRW && h.Len > 0 ||
				h.Type != TypeStream && (h.Type != TypeSeqpacket || !seqpacket)):
				t.Errorf("%+v is accepted", h)
			case v == verdictReset && (h.Op == OpRst || h.SrcCID != guestCID):
				t.Errorf("%+v is answered", h)
			}
		}
	})
}

// hostile is a driver and a host program that do what the bytes say.
type hostile struct {
	t     *testing.T
	d     *Device
	g     *fakeGuest
	ls    []net.Listener
	data  []byte
	ports []connKey // seen in packets for the guest

	work          sync.WaitGroup
	dials, dialed atomic.Int64 // begun, ended

	mu    sync.Mutex
	conns []*Conn
}

func (h *hostile) byte() byte {
	if len(h.data) == 0 {
		return 0
	}
	b := h.data[0]
	h.data = h.data[1:]
	return b
}

func (h *hostile) word() uint32 {
	var b [4]byte
	h.data = h.data[copy(b[:], h.data):]
	return binary.LittleEndian.Uint32(b[:])
}

// count returns a number that is mostly small or close to a power of two.
func (h *hostile) count() uint32 {
	b := h.byte()
	switch b >> 6 {
	case 0:
		return uint32(b)
	case 1:
		return 1<<(b&31) - 1
	case 2:
		return 1 << (b & 31)
	}
	return h.word()
}

func (h *hostile) packet() {
	q := h.g.queues[queueTX]
	for {
		i, _, ok := q.usedAny()
		if !ok {
			break
		}
		q.free = append(q.free, i)
	}
	if len(q.free) == 0 {
		return
	}
	b := h.byte()
	p := Header{SrcCID: guestCID, DstCID: HostCID, SrcPort: uint32(b & 3), DstPort: hostPort + uint32(b>>2&1), Type: TypeStream + Type(b>>2&1)}
	if n := len(h.ports); b&8 != 0 && n > 0 {
		k := h.ports[int(b>>4)%n]
		p.SrcPort, p.DstPort = k.guest, k.host
	}
	b = h.byte()
	p.Op = Op(b & 7)
	if b&8 != 0 {
		p.Op = OpRW
	}
	p.Flags = uint32(b >> 4 & 3)
	size := 0
	if p.Op == OpRW {
		size = int(h.count() % maxPacket)
	}
	p.Len = uint32(size)
	p.BufAlloc, p.FwdCnt = 256<<10, uint32(h.byte())<<8
	if b&0xc0 == 0xc0 { // anything
		switch h.byte() % 8 {
		case 0:
			p.SrcCID = uint64(h.word())
		case 1:
			p.DstCID = uint64(h.word())
		case 2:
			p.Len = h.count()
		case 3:
			p.Type = Type(h.word())
		case 4:
			p.Op = Op(h.word())
		case 5:
			p.BufAlloc = h.count()
		case 6:
			p.FwdCnt = h.count()
		case 7:
			p.Flags = h.word()
		}
	}
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	p.Put(q.bufs[i])
	q.tryAdd(i, HeaderSize+size)
	q.kick.Signal()
}

// post offers receive buffers.
func (h *hostile) post() {
	q := h.g.queues[queueRX]
	n, size := int(h.byte()%16), q.size
	if b := h.byte(); b&1 != 0 {
		size = HeaderSize + int(b>>1)
	} else if b == 0xfe {
		size = int(h.byte() % HeaderSize)
	}
	for range min(n, len(q.free)) {
		i := q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
		q.tryAdd(i, size)
	}
	q.kick.Signal()
}

// reap takes what came for the guest and remembers whom it was from.
func (h *hostile) reap() {
	q := h.g.queues[queueRX]
	for {
		i, n, ok := q.usedAny()
		if !ok {
			return
		}
		if int(n) <= len(q.bufs[i]) {
			if p, err := ParseHeader(q.bufs[i][:n]); err == nil && len(h.ports) < 8 {
				h.ports = append(h.ports, connKey{host: p.SrcPort, guest: p.DstPort})
			}
		}
		q.free = append(q.free, i)
	}
}

// use makes the host's program do something with a connection.
func (h *hostile) use() {
	h.mu.Lock()
	conns := h.conns
	h.mu.Unlock()
	b := h.byte()
	if len(conns) == 0 {
		return
	}
	c, n := conns[int(b>>3)%len(conns)], int(h.count()%(1<<18))
	switch b & 7 {
	case 0:
		h.work.Go(func() { c.Read(make([]byte, n)) })
	case 1:
		if c.typ == TypeStream {
			c.Forward(func(bufs [][]byte) int { return n & 0xff * virtqueue.Len(bufs) / 0xff }, func() { c.WriteBuffered(io.Discard) })
		}
	case 2:
		h.work.Go(func() { c.Write(make([]byte, n)) })
	case 3:
		h.work.Go(func() {
			c.SendFrom(func(bufs [][]byte) (int, error) {
				for _, b := range bufs {
					clear(b)
				}
				return n, nil
			})
		})
	case 4:
		c.CloseRead()
	case 5:
		c.CloseWrite()
	case 6:
		c.Close()
	case 7:
		c.SetDeadline(time.Now().Add(time.Duration(n) * time.Microsecond))
	}
}

func (h *hostile) keep(c *Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c)
}

// corrupt writes to the descriptors or the available ring.
func (h *hostile) corrupt() {
	q := h.g.queues[h.byte()%queueCount]
	size := q.Config.Device - q.Config.Desc
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], h.word())
	off := uint64(h.word()) % (size - 4)
	if err := h.g.mem.WriteAt(b[:1+h.byte()%4], q.Config.Desc+off); err != nil {
		h.t.Fatal(err)
	}
	q.kick.Signal()
}

func (h *hostile) check() {
	// Whoever adds a connection when there are too many evicts one afterwards:
	// the guest's request that is being handled, and each dial under way.
	dialed := h.dialed.Load()
	h.d.mu.Lock()
	conns := make([]*Conn, 0, len(h.d.conns))
	for _, c := range h.d.conns {
		conns = append(conns, c)
	}
	slots := h.d.slots
	h.d.mu.Unlock()
	if adding := 1 + int(h.dials.Load()-dialed); slots > h.d.maxConns+adding {
		h.t.Errorf("%d connections while %d may be added; want %d at most", slots, adding, h.d.maxConns+adding)
	}
	for _, c := range conns {
		c.mu.Lock()
		if held := c.rxCnt - c.fwdCnt; held > c.bufAlloc || uint32(c.in.n) > held {
			h.t.Errorf("%d of %d bytes held for %d of credit", c.in.n, held, c.bufAlloc)
		}
		if n := c.inFlight.len(); n > maxInFlight {
			h.t.Errorf("%d packets in flight", n)
		}
		c.mu.Unlock()
	}
	h.d.ring.mu.Lock()
	defer h.d.ring.mu.Unlock()
	if n := len(h.d.ring.resets); n > maxResets {
		h.t.Errorf("%d resets queued", n)
	}
}

func FuzzDevice(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x0f\x00\x00\x00\x01\x00\x02\x04\x00\x00\x0d\x20abc\x05\x00\x10\x05\x02\x20\x02\x05\x06"))
	f.Add([]byte("\x01\x0f\x00\x03\x00\x02\x00\x08\x02\x00\x00\x08\x05\x3f\x00\x05\x03\xc0\xff\xff\x00\x00\x02\x00\x08\x03"))
	f.Add([]byte("\x01\x0f\x00\x00\x04\x01\x00\x04\x00\x04\x0d\x90\x00\x00\x04\x1d\x10\x00\x05\x00\x10\x06\x01\x00\x00\x00\x00\x10\x00\x00\x00\x03"))
	f.Add([]byte("\x00\x00\xc1\x00\x00\x00\x00\xc8\x05\x02\xff\x00\x00\x01\x00\x04\x05\x00\x20\x01\x01\xfe\x05\x00\x00\x01\x00\x07"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			data = data[:4096]
		}
		before := runtime.NumGoroutine()
		d := newDevice(Options{MaxConns: 8, MaxSeqpacket: 8, MaxBuffer: 1 << 20, CloseTimeout: time.Millisecond})
		g := newGuest(t, d, guestOptions{entries: 16, noReceive: true, racy: true, txSize: HeaderSize + 8<<10})
		ctx, cancel := context.WithCancel(context.Background())
		h := &hostile{t: t, d: d, g: g, data: data}
		for i, typ := range []Type{TypeStream, TypeSeqpacket} {
			l, err := d.listen(typ, hostPort+uint32(i))
			if err != nil {
				t.Fatal(err)
			}
			h.ls = append(h.ls, l)
			h.work.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					h.keep(c.(*Conn))
				}
			})
		}
		for len(h.data) > 0 {
			switch h.byte() % 8 {
			case 0, 7:
				h.packet()
			case 1:
				h.post()
			case 2:
				h.reap()
			case 3:
				port, typ := uint32(h.byte()&3), TypeStream
				h.dials.Add(1)
				h.work.Go(func() {
					c, err := d.dial(ctx, typ, port)
					h.dialed.Add(1)
					if err == nil {
						h.keep(c)
					}
				})
			case 4:
				runtime.Gosched()
				h.check()
			case 5:
				h.use()
			case 6:
				h.corrupt()
			}
		}
		h.check()
		cancel()
		if len(data)%2 == 0 { // end with the guest, or with the host's program
			d.Reset()
		}
		for _, l := range h.ls {
			l.Close()
		}
		done := make(chan struct{})
		go func() {
			// Whoever still waits does so for a connection that nobody closed.
			for {
				h.mu.Lock()
				for _, c := range h.conns {
					c.Close()
				}
				h.mu.Unlock()
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		timeout := time.AfterFunc(30*time.Second, func() { panic("deadlock") })
		h.work.Wait()
		close(done)
		for _, c := range h.conns {
			c.Close()
		}
		wantSlots(t, d, 0)
		d.Reset()
		if n := length(&d.ring.control) + length(&d.ring.waiting) + len(d.ring.resets); n != 0 {
			t.Errorf("%d left behind", n)
		}
		select {
		case err := <-g.failed:
			if err == nil || errors.Is(err, virtqueue.ErrStopped) {
				t.Errorf("Fail(%v)", err)
			}
		default:
		}
		eventually(t, func() bool { return runtime.NumGoroutine() <= before })
		timeout.Stop()
	})
}
