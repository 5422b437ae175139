// Package vsocktest joins two vsock devices for tests: what one has for its
// guest the other gets from its own, so that each is the guest of the other.
package vsocktest

import (
	"encoding/binary"
	"io"
	"log/slog"
	"sync"
	"testing"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtiotest"
	"runv.dev/runv/virtio/virtqueue"
	"runv.dev/runv/virtio/vsock"
)

const (
	cid        = 3
	entries    = 256
	seqpacket  = 1 << 1 // VIRTIO_VSOCK_F_SEQPACKET
	txBuffer   = vsock.HeaderSize + 64<<10
	eventBytes = 4
)

// LinuxBuffer is the size of a Linux driver's receive buffers.
const LinuxBuffer = 4096 - 320

// Pair returns two devices joined to each other, until the test ends. rx is the
// size of the receive buffers; 0 stands for LinuxBuffer.
func Pair(tb testing.TB, a, b vsock.Options, rx int) (*vsock.Device, *vsock.Device) {
	tb.Helper()
	if rx == 0 {
		rx = LinuxBuffer
	}
	first, second := newDriver(tb, a, rx), newDriver(tb, b, rx)
	quit := make(chan struct{})
	var pumps sync.WaitGroup
	pumps.Go(func() { first.pump(second, quit) })
	pumps.Go(func() { second.pump(first, quit) })
	tb.Cleanup(func() {
		close(quit)
		pumps.Wait()
		for _, d := range []*driver{first, second} {
			d.dev.Reset()
			for _, q := range d.queues {
				q.kick.Close()
			}
		}
	})
	return first.dev, second.dev
}

// queue is the driver's side of a queue with equal buffers.
type queue struct {
	*virtiotest.Ring
	bufs      [][]byte
	addrs     []uint64
	free      []int
	owner     [entries]int // buffer by head
	writable  bool
	added     uint16
	kick      *eventfd.EventFD
	interrupt chan struct{}
}

type driver struct {
	dev    *vsock.Device
	queues []*queue // rx, tx, event
}

func newDriver(tb testing.TB, o vsock.Options, rx int) *driver {
	o.CID = cid
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	d := &driver{dev: vsock.New(o)}
	page := func(n int) int { return (n + guestmem.PageSize - 1) &^ (guestmem.PageSize - 1) }
	sizes := []int{rx, txBuffer, eventBytes}
	total := 0
	for _, n := range sizes {
		total += page(int(virtiotest.RingBytes(entries))) + entries*page(n)
	}
	mem := virtiotest.Memory(total, 0)
	act := virtio.Activation{
		Mem: mem, Features: seqpacket, ConfigChanged: func() {},
		Fail: func(err error) { tb.Errorf("the device failed: %v", err) },
	}
	addr := uint64(0)
	for i, n := range sizes {
		q := &queue{Ring: virtiotest.NewRing(mem, addr, entries, true, true), writable: i != 1, interrupt: make(chan struct{}, 1)}
		addr += uint64(page(int(virtiotest.RingBytes(entries))))
		for j := range entries {
			b, err := mem.Slice(addr, uint64(n))
			if err != nil {
				tb.Fatal(err)
			}
			q.bufs, q.addrs, q.free = append(q.bufs, b), append(q.addrs, addr), append(q.free, j)
			addr += uint64(page(n))
		}
		vq, err := virtqueue.New(mem, q.Config)
		if err != nil {
			tb.Fatal(err)
		}
		if q.kick, err = eventfd.New(); err != nil {
			tb.Fatal(err)
		}
		d.queues = append(d.queues, q)
		act.Queues = append(act.Queues, virtio.ActiveQueue{Queue: vq, Kick: q.kick, Interrupt: func() {
			select {
			case q.interrupt <- struct{}{}:
			default:
			}
		}})
	}
	if err := d.dev.Activate(act); err != nil {
		tb.Fatal(err)
	}
	d.queues[0].post()
	return d
}

// post makes all free buffers available.
func (q *queue) post() {
	old := q.added
	for _, i := range q.free {
		q.add(i, len(q.bufs[i]))
	}
	q.free = q.free[:0]
	q.notify(old)
}

func (q *queue) add(i, n int) {
	head, ok := q.Add(virtiotest.Buffer{Addr: q.addrs[i], Len: uint32(n), Writable: q.writable})
	if !ok {
		panic("no free descriptor")
	}
	q.owner[head] = i
	q.added++
}

func (q *queue) notify(old uint16) {
	if q.added-q.AvailableEvent()-1 < q.added-old {
		q.kick.Signal()
	}
}

// wait takes a finished buffer; it returns false when quit is closed.
func (q *queue) wait(quit <-chan struct{}) (i int, n uint32, ok bool) {
	for {
		if head, n, ok := q.Used(); ok {
			return q.owner[head], n, true
		}
		if q.ArmInterrupt() {
			continue
		}
		select {
		case <-q.interrupt:
		case <-quit:
			return 0, 0, false
		}
	}
}

// pump sends what d has for its guest to to.
func (d *driver) pump(to *driver, quit <-chan struct{}) {
	rx, tx := d.queues[0], to.queues[1]
	for {
		i, n, ok := rx.wait(quit)
		if !ok {
			return
		}
		for len(tx.free) == 0 {
			j, _, ok := tx.wait(quit)
			if !ok {
				return
			}
			tx.free = append(tx.free, j)
		}
		j := tx.free[len(tx.free)-1]
		tx.free = tx.free[:len(tx.free)-1]
		b := tx.bufs[j]
		copy(b, rx.bufs[i][:n])
		binary.LittleEndian.PutUint64(b, cid)               // from the guest
		binary.LittleEndian.PutUint64(b[8:], vsock.HostCID) // to the host
		old := tx.added
		tx.add(j, int(n))
		tx.notify(old)
		rx.free = append(rx.free, i)
		if len(rx.free) >= entries/2 || rx.UsedIdx() == rx.added {
			rx.post()
		}
	}
}
