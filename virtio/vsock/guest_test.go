package vsock

import (
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtiotest"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	guestCID = 3

	// linuxBuffer is the size of a Linux driver's receive buffers.
	linuxBuffer = 4096 - 320
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newDevice(o Options) *Device {
	o.CID = guestCID
	if o.Log == nil {
		o.Log = quiet
	}
	return New(o)
}

// fakeQueue is the driver's side of a queue with equal buffers, one per
// descriptor.
type fakeQueue struct {
	*virtiotest.Ring
	bufs      [][]byte
	addrs     []uint64
	free      []int       // buffers
	owner     map[int]int // buffer by head
	size      int
	added     uint16
	writable  bool
	kick      *eventfd.EventFD
	interrupt chan struct{}
	active    virtio.ActiveQueue
}

// fakeGuest is a driver without a transport: it reads and writes packets.
type fakeGuest struct {
	tb     testing.TB
	dev    *Device
	mem    *guestmem.Memory
	queues [queueCount]*fakeQueue
	failed chan error
}

type guestOptions struct {
	rxSize, txSize int // of the buffers; linuxBuffer and 64 KiB by default
	entries        uint16
	noSeqpacket    bool
	noEventIdx     bool
	noReceive      bool // post no receive buffers
	racy           bool // the guest writes while the device reads
}

func newGuest(tb testing.TB, dev *Device, o guestOptions) *fakeGuest {
	tb.Helper()
	if o.rxSize == 0 {
		o.rxSize = linuxBuffer
	}
	if o.txSize == 0 {
		o.txSize = HeaderSize + maxPacket
	}
	if o.entries == 0 {
		o.entries = 64
	}
	g := &fakeGuest{tb: tb, dev: dev, failed: make(chan error, 1)}
	page := func(n int) int { return (n + guestmem.PageSize - 1) &^ (guestmem.PageSize - 1) }
	sizes := [queueCount]int{queueRX: o.rxSize, queueTX: o.txSize, queueEvent: eventSize}
	total := 0
	for _, n := range sizes {
		total += page(int(virtiotest.RingBytes(o.entries))) + int(o.entries)*page(n)
	}
	if o.racy {
		// Outside of Go's memory the race detector does not mind.
		b, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { unix.Munmap(b) })
		if g.mem, err = guestmem.New(guestmem.Region{Data: b}); err != nil {
			tb.Fatal(err)
		}
	} else {
		g.mem = virtiotest.Memory(total, 0)
	}
	a := virtio.Activation{Mem: g.mem, Fail: func(err error) { g.failed <- err }, ConfigChanged: func() {}}
	if !o.noSeqpacket {
		a.Features |= featureSeqpacket
	}
	addr := uint64(0)
	for i := range g.queues {
		r := virtiotest.NewRing(g.mem, addr, o.entries, !o.noEventIdx, true)
		addr += uint64(page(int(virtiotest.RingBytes(o.entries))))
		q := &fakeQueue{Ring: r, size: sizes[i], owner: map[int]int{}, interrupt: make(chan struct{}, 1), writable: i != queueTX}
		for j := range int(o.entries) {
			b, err := g.mem.Slice(addr, uint64(sizes[i]))
			if err != nil {
				tb.Fatal(err)
			}
			q.bufs, q.addrs = append(q.bufs, b), append(q.addrs, addr)
			q.free = append(q.free, j)
			addr += uint64(page(sizes[i]))
		}
		vq, err := virtqueue.New(g.mem, r.Config)
		if err != nil {
			tb.Fatal(err)
		}
		q.kick, err = eventfd.New()
		if err != nil {
			tb.Fatal(err)
		}
		q.active = virtio.ActiveQueue{Queue: vq, Kick: q.kick, Interrupt: func() {
			select {
			case q.interrupt <- struct{}{}:
			default:
			}
		}}
		a.Queues = append(a.Queues, q.active)
		g.queues[i] = q
	}
	if err := dev.Activate(a); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		dev.Reset()
		for _, q := range g.queues {
			q.kick.Close()
		}
	})
	if !o.noReceive {
		g.fill()
	}
	return g
}

// add makes buffer i available with n bytes.
func (q *fakeQueue) add(i, n int) {
	if !q.tryAdd(i, n) {
		panic("no free descriptor")
	}
}

// tryAdd is add for a queue that may be corrupt: it returns false when there is
// no free descriptor.
func (q *fakeQueue) tryAdd(i, n int) bool {
	head, ok := q.Add(virtiotest.Buffer{Addr: q.addrs[i], Len: uint32(n), Writable: q.writable})
	if ok {
		q.owner[int(head)] = i
		q.added++
	}
	return ok
}

// notify kicks the device if it wants to be told of entries from old on.
func (q *fakeQueue) notify(old uint16) {
	if q.Config.EventIdx {
		if q.added-q.AvailableEvent()-1 >= q.added-old {
			return
		}
	} else if q.UsedFlags()&1 != 0 {
		return
	}
	q.kick.Signal()
}

// usedAny is used for a ring that the driver may have had its own buffers
// written over: what makes no sense there is left out.
func (q *fakeQueue) usedAny() (i int, n uint32, ok bool) {
	for {
		id, n, ok := q.TakeUsed()
		if !ok {
			return 0, 0, false
		}
		if i, known := q.owner[int(id)]; known {
			delete(q.owner, int(id))
			return i, n, true
		}
	}
}

// used takes a finished buffer, or returns false.
func (q *fakeQueue) used() (i int, n uint32, ok bool) {
	head, n, ok := q.Used()
	if !ok {
		return 0, 0, false
	}
	i = q.owner[int(head)]
	delete(q.owner, int(head))
	return i, n, true
}

// wait returns a finished buffer, or false when stop is closed first.
func (q *fakeQueue) wait(stop <-chan struct{}) (int, uint32, bool) {
	for {
		if i, n, ok := q.used(); ok {
			return i, n, true
		}
		if q.ArmInterrupt() {
			continue
		}
		select {
		case <-q.interrupt:
		case <-stop:
			return 0, 0, false
		}
	}
}

// fill makes all free receive buffers available.
func (g *fakeGuest) fill() { g.post(len(g.queues[queueRX].free)) }

func (g *fakeGuest) post(n int) {
	q := g.queues[queueRX]
	old := q.added
	for range n {
		i := q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
		q.add(i, q.size)
	}
	q.notify(old)
}

// sendRaw sends a packet as it is.
func (g *fakeGuest) sendRaw(b []byte, stop <-chan struct{}) {
	q := g.queues[queueTX]
	for len(q.free) == 0 {
		i, _, ok := q.wait(stop)
		if !ok {
			return
		}
		q.free = append(q.free, i)
	}
	for {
		i, _, ok := q.used()
		if !ok {
			break
		}
		q.free = append(q.free, i)
	}
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	n := copy(q.bufs[i], b)
	old := q.added
	q.add(i, n)
	q.notify(old)
}

// packet is a packet as the guest sees it.
type packet struct {
	Header
	data []byte
}

func (g *fakeGuest) send(h Header, data string) {
	g.tb.Helper()
	if h.SrcCID == 0 {
		h.SrcCID = guestCID
	}
	if h.DstCID == 0 {
		h.DstCID = HostCID
	}
	if h.Type == 0 {
		h.Type = TypeStream
	}
	if h.Len == 0 {
		h.Len = uint32(len(data))
	}
	b := make([]byte, HeaderSize, HeaderSize+len(data))
	h.Put(b)
	timeout := make(chan struct{})
	t := time.AfterFunc(virtiotest.Patience, func() { close(timeout) })
	defer t.Stop()
	g.sendRaw(append(b, data...), timeout)
}

// recv returns the next packet for the guest and posts its buffer again.
func (g *fakeGuest) recv() packet {
	g.tb.Helper()
	timeout := make(chan struct{})
	t := time.AfterFunc(virtiotest.Patience, func() { close(timeout) })
	defer t.Stop()
	q := g.queues[queueRX]
	i, n, ok := q.wait(timeout)
	if !ok {
		g.tb.Fatal("no packet for the guest")
	}
	p := g.parse(i, n)
	q.free = append(q.free, i)
	g.post(1)
	return p
}

func (g *fakeGuest) parse(i int, n uint32) packet {
	g.tb.Helper()
	b := append([]byte(nil), g.queues[queueRX].bufs[i][:n]...)
	h, err := ParseHeader(b)
	if err != nil {
		g.tb.Fatalf("packet of %d bytes: %v", n, err)
	}
	if h.SrcCID != HostCID && h.Op != OpRst || h.DstCID != guestCID || int(h.Len) != len(b)-HeaderSize {
		g.tb.Errorf("bad packet for the guest: %+v in %d bytes", h, len(b))
	}
	return packet{h, b[HeaderSize:]}
}

// expect receives a packet with the given operation.
func (g *fakeGuest) expect(op Op) packet {
	g.tb.Helper()
	p := g.recv()
	if p.Op != op {
		g.tb.Fatalf("guest got %v %+v, want %v", p.Op, p.Header, op)
	}
	return p
}

// silent checks that there is no packet for the guest after everything sent
// so far was handled. It uses a packet that is always answered.
func (g *fakeGuest) silent() {
	g.tb.Helper()
	const probe = 0xfffffff0
	g.send(Header{SrcPort: probe, DstPort: probe, Op: OpRW}, "")
	if p := g.recv(); p.Op != OpRst || p.DstPort != probe {
		g.tb.Fatalf("guest got %v %+v, want silence", p.Op, p.Header)
	}
	// The answer overtakes what connections have to tell.
	d := g.dev
	d.mu.Lock()
	conns := slices.Collect(maps.Values(d.conns))
	d.mu.Unlock()
	d.ring.mu.Lock()
	defer d.ring.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		pending := c.pending
		c.mu.Unlock()
		if pending != 0 {
			g.tb.Fatalf("pending for the guest: %#x, want silence", pending)
		}
	}
	if i, n, ok := g.queues[queueRX].used(); ok {
		p := g.parse(i, n)
		g.tb.Fatalf("guest got %v %+v, want silence", p.Op, p.Header)
	}
}

// bridge joins two devices: what one sends to its guest the other receives
// from its own. The guests are driven by nobody else.
func bridge(tb testing.TB, a, b *fakeGuest) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for _, w := range [][2]*fakeGuest{{a, b}, {b, a}} {
		wg.Go(func() { pump(w[0], w[1], quit) })
	}
	var once atomic.Bool
	return func() {
		if once.CompareAndSwap(false, true) {
			close(quit)
			wg.Wait()
		}
	}
}

func pump(from, to *fakeGuest, quit <-chan struct{}) {
	q := from.queues[queueRX]
	for {
		i, n, ok := q.wait(quit)
		if !ok {
			return
		}
		b := q.bufs[i][:n]
		h, err := ParseHeader(b)
		if err != nil {
			from.tb.Errorf("packet of %d bytes", n)
			return
		}
		h.SrcCID, h.DstCID = h.DstCID, h.SrcCID
		h.Put(b)
		to.sendRaw(b, quit)
		q.free = append(q.free, i)
		if len(q.free) >= len(q.bufs)/2 || q.UsedIdx() == q.added-uint16(len(q.owner)) {
			from.post(len(q.free))
		}
	}
}

// pair returns two devices joined by a bridge, and a port that one dials and
// the other listens on.
func pair(tb testing.TB, o Options, g guestOptions) (a, b *Device) {
	a, b = newDevice(o), newDevice(o)
	ga, gb := newGuest(tb, a, g), newGuest(tb, b, g)
	tb.Cleanup(bridge(tb, ga, gb))
	return a, b
}
