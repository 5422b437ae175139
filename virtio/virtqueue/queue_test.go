package virtqueue_test

import (
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio/virtiotest"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	ringAddr = 0x1000
	dataAddr = 0x8000 // of 0x8000 bytes
	memEnd   = 0x10000
)

func newQueue(t testing.TB, size uint16, eventIdx, indirect bool) (*virtqueue.Queue, *virtiotest.Ring) {
	t.Helper()
	r := virtiotest.NewRing(virtiotest.Memory(memEnd, guestmem.PageSize), ringAddr, size, eventIdx, indirect)
	q, err := virtqueue.New(r.Mem, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	return q, r
}

func TestNew(t *testing.T) {
	good := virtqueue.Config{Size: 8, Desc: 0x1000, Driver: 0x2000, Device: 0x3000}
	with := func(f func(*virtqueue.Config)) virtqueue.Config {
		c := good
		f(&c)
		return c
	}
	for name, tc := range map[string]struct {
		cfg virtqueue.Config
		ok  bool
	}{
		"good":               {good, true},
		"packed":             {virtqueue.Config{Size: 8, Desc: 0x1000, Driver: 0x1080, Device: 0x1080 + 24}, true},
		"high":               {virtqueue.Config{Size: 8, Desc: virtiotest.HighMemory, Driver: 0x1002, Device: 0x2004}, true},
		"size 1":             {with(func(c *virtqueue.Config) { c.Size = 1 }), true},
		"size 0":             {with(func(c *virtqueue.Config) { c.Size = 0 }), false},
		"size 6":             {with(func(c *virtqueue.Config) { c.Size = 6 }), false},
		"size 65535":         {with(func(c *virtqueue.Config) { c.Size = 65535 }), false},
		"all at 0":           {virtqueue.Config{Size: 8}, false},
		"desc unaligned":     {with(func(c *virtqueue.Config) { c.Desc += 8 }), false},
		"driver unaligned":   {with(func(c *virtqueue.Config) { c.Driver++ }), false},
		"device unaligned":   {with(func(c *virtqueue.Config) { c.Device += 2 }), false},
		"desc outside":       {with(func(c *virtqueue.Config) { c.Desc = memEnd }), false},
		"desc past the end":  {with(func(c *virtqueue.Config) { c.Desc = memEnd - 16 }), false},
		"driver past":        {with(func(c *virtqueue.Config) { c.Driver = memEnd - 20 }), false},
		"device past":        {with(func(c *virtqueue.Config) { c.Device = memEnd - 68 }), false},
		"device wraps":       {with(func(c *virtqueue.Config) { c.Device = math.MaxUint64 - 3 }), false},
		"desc wraps":         {with(func(c *virtqueue.Config) { c.Desc = math.MaxUint64 - 15 }), false},
		"used in desc":       {with(func(c *virtqueue.Config) { c.Device = c.Desc + 64 }), false},
		"avail in desc":      {with(func(c *virtqueue.Config) { c.Driver = c.Desc + 126 }), false},
		"avail in used":      {with(func(c *virtqueue.Config) { c.Driver = c.Device + 66 }), false},
		"used over avail":    {with(func(c *virtqueue.Config) { c.Device = c.Driver - 4 }), false},
		"used same as avail": {with(func(c *virtqueue.Config) { c.Device = c.Driver }), false},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := virtqueue.New(virtiotest.Memory(memEnd, guestmem.PageSize), tc.cfg)
			if (err == nil) != tc.ok {
				t.Fatalf("New = %v, want ok %v", err, tc.ok)
			}
			if err == nil && q.Size() != tc.cfg.Size {
				t.Errorf("Size = %d, want %d", q.Size(), tc.cfg.Size)
			}
		})
	}
}

// shape is the lengths of the buffers of a chain.
func shape(buffers [][]byte) []int {
	var n []int
	for _, b := range buffers {
		n = append(n, len(b))
	}
	return n
}

func TestPopPush(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		q, r := newQueue(t, 4, false, true)
		add := func(b ...virtiotest.Buffer) (uint16, bool) {
			if indirect {
				return r.AddIndirect(dataAddr+0x4008, b...)
			}
			return r.Add(b...)
		}
		if err := r.Mem.WriteAt([]byte("request"), dataAddr); err != nil {
			t.Fatal(err)
		}
		// Three times round the ring.
		for i := range 12 {
			if _, ok, err := q.Pop(); ok || err != nil {
				t.Fatalf("Pop of an empty queue = %v, %v", ok, err)
			}
			want, _ := add(
				virtiotest.Buffer{Addr: dataAddr, Len: 7},
				virtiotest.Buffer{Addr: dataAddr + 100, Len: 0},
				virtiotest.Buffer{Addr: dataAddr + 200, Len: 3, Writable: true},
				virtiotest.Buffer{Addr: virtiotest.HighMemory, Len: 5, Writable: true},
			)
			c, ok, err := q.Pop()
			if err != nil || !ok || c.Head != want {
				t.Fatalf("Pop = %v, %v, %v", c.Head, ok, err)
			}
			if got := shape(c.Readable); !slices.Equal(got, []int{7}) {
				t.Errorf("readable %v", got)
			}
			if got := shape(c.Writable); !slices.Equal(got, []int{3, 5}) {
				t.Errorf("writable %v", got)
			}
			var b [10]byte
			if n := virtqueue.CopyOut(b[:], c.Readable); string(b[:n]) != "request" {
				t.Errorf("readable is %q", b[:n])
			}
			if n := virtqueue.CopyIn(c.Writable, []byte("response and more")); n != 8 {
				t.Errorf("CopyIn = %d", n)
			}
			c.Release()
			notify, err := q.Push(want, 8)
			if err != nil || !notify {
				t.Errorf("Push = %v, %v", notify, err)
			}
			head, n, ok := r.Used()
			if !ok || head != want || n != 8 {
				t.Errorf("used %d, %d, %v at round %d", head, n, ok, i)
			}
			got := make([]byte, 5)
			if err := r.Mem.ReadAt(got, virtiotest.HighMemory); err != nil || string(got) != "ponse" {
				t.Errorf("second writable buffer is %q, %v", got, err)
			}
		}
	}
}

// TestBadChains has one descriptor table for each rule a driver can break.
func TestBadChains(t *testing.T) {
	type D struct { // virtiotest.Descriptor, of this package
		Addr        uint64
		Len         uint32
		Flags, Next uint16
	}
	const table = dataAddr + 0x1000
	big := func(n uint16) []D {
		var ds []D
		for i := range n {
			ds = append(ds, D{dataAddr, 1, virtiotest.Next, i + 1})
		}
		return ds
	}
	for name, tc := range map[string]struct {
		head        uint16
		desc        []D
		indirect    []D // at table
		notIndirect bool
		ok          bool
	}{
		"good":                  {desc: []D{{dataAddr, 8, virtiotest.Next, 1}, {dataAddr, 8, virtiotest.Write, 0}}, ok: true},
		"no bytes":              {desc: []D{{0, 0, 0, 0}}, ok: true},
		"unmapped but empty":    {desc: []D{{1 << 60, 0, 0, 0}}, ok: true},
		"next unused":           {desc: []D{{dataAddr, 1, 0, 999}}, ok: true},
		"all descriptors":       {desc: append(big(7), D{dataAddr, 1, 0, 0}), ok: true},
		"head past the end":     {head: 8},
		"head far past the end": {head: 0xffff},
		"next past the end":     {desc: []D{{dataAddr, 8, virtiotest.Next, 8}}},
		"self cycle":            {desc: []D{{dataAddr, 8, virtiotest.Next, 0}}},
		"cycle":                 {desc: []D{{dataAddr, 8, virtiotest.Next, 1}, {dataAddr, 8, virtiotest.Next, 0}}},
		"empty cycle":           {desc: []D{{dataAddr, 0, virtiotest.Next, 1}, {dataAddr, 0, virtiotest.Next, 0}}},
		"readable after writable": {desc: []D{{dataAddr, 8, virtiotest.Write | virtiotest.Next, 1},
			{dataAddr, 8, 0, 0}}},
		"readable after empty writable": {desc: []D{{dataAddr, 0, virtiotest.Write | virtiotest.Next, 1},
			{dataAddr, 8, 0, 0}}},
		"outside":             {desc: []D{{memEnd, 1, 0, 0}}},
		"past the end":        {desc: []D{{memEnd - 1, 2, 0, 0}}},
		"into the hole":       {desc: []D{{memEnd - 4, math.MaxUint32, 0, 0}}},
		"from hole to high":   {desc: []D{{virtiotest.HighMemory - 1, 2, 0, 0}}},
		"wraps":               {desc: []D{{math.MaxUint64 - 1, 4, 0, 0}}},
		"wraps to the memory": {desc: []D{{math.MaxUint64, 0x2000, virtiotest.Write, 0}}},

		"indirect": {desc: []D{{table, 32, virtiotest.Indirect, 0}},
			indirect: []D{{dataAddr, 8, virtiotest.Next, 1}, {dataAddr, 8, 0, 0}}, ok: true},
		"indirect marked writable": {desc: []D{{table, 16, virtiotest.Indirect | virtiotest.Write, 0}},
			indirect: []D{{dataAddr, 8, 0, 0}}, ok: true},
		"indirect at the end of a chain": {desc: []D{{dataAddr, 4, virtiotest.Next, 1}, {table, 16, virtiotest.Indirect, 0}},
			indirect: []D{{dataAddr, 8, virtiotest.Write, 0}}, ok: true},
		"indirect unaligned": {desc: []D{{table - 8, 16, virtiotest.Indirect, 0}}, ok: true},
		"indirect after writable": {desc: []D{{dataAddr, 4, virtiotest.Next | virtiotest.Write, 1}, {table, 16, virtiotest.Indirect, 0}},
			indirect: []D{{dataAddr, 8, 0, 0}}},
		"indirect not negotiated": {desc: []D{{table, 16, virtiotest.Indirect, 0}},
			indirect: []D{{dataAddr, 8, 0, 0}}, notIndirect: true},
		"indirect with next": {desc: []D{{table, 16, virtiotest.Indirect | virtiotest.Next, 1}, {dataAddr, 8, 0, 0}},
			indirect: []D{{dataAddr, 8, 0, 0}}},
		"indirect nested": {desc: []D{{table, 32, virtiotest.Indirect, 0}},
			indirect: []D{{dataAddr, 8, virtiotest.Next, 1}, {table, 16, virtiotest.Indirect, 0}}},
		"indirect into itself": {desc: []D{{table, 16, virtiotest.Indirect, 0}},
			indirect: []D{{table, 16, virtiotest.Indirect, 0}}},
		"indirect of 0":        {desc: []D{{table, 0, virtiotest.Indirect, 0}}},
		"indirect of 17":       {desc: []D{{table, 17, virtiotest.Indirect, 0}}, indirect: []D{{dataAddr, 8, 0, 0}}},
		"indirect of 15":       {desc: []D{{table, 15, virtiotest.Indirect, 0}}, indirect: []D{{dataAddr, 8, 0, 0}}},
		"indirect too long":    {desc: []D{{ringAddr, 1025 * 16, virtiotest.Indirect, 0}}},
		"indirect huge":        {desc: []D{{ringAddr, math.MaxUint32 &^ 15, virtiotest.Indirect, 0}}},
		"indirect outside":     {desc: []D{{memEnd, 16, virtiotest.Indirect, 0}}},
		"indirect across end":  {desc: []D{{memEnd - 16, 32, virtiotest.Indirect, 0}}, indirect: []D{{dataAddr, 8, 0, 0}}},
		"indirect wraps":       {desc: []D{{math.MaxUint64 - 15, 32, virtiotest.Indirect, 0}}},
		"indirect next past":   {desc: []D{{table, 32, virtiotest.Indirect, 0}}, indirect: []D{{dataAddr, 8, virtiotest.Next, 2}}},
		"indirect cycle":       {desc: []D{{table, 16, virtiotest.Indirect, 0}}, indirect: []D{{dataAddr, 8, virtiotest.Next, 0}}},
		"indirect buffer hole": {desc: []D{{table, 16, virtiotest.Indirect, 0}}, indirect: []D{{1 << 31, 8, 0, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			q, r := newQueue(t, 8, false, !tc.notIndirect)
			for i, d := range tc.desc {
				r.SetDescriptor(uint16(i), virtiotest.Descriptor(d))
			}
			for i, d := range tc.indirect {
				r.SetDescriptorAt(table, uint16(i), virtiotest.Descriptor(d))
			}
			r.Publish(tc.head)
			c, ok, err := q.Pop()
			if tc.ok {
				if err != nil || !ok {
					t.Fatalf("Pop = %v, %v", ok, err)
				}
				if _, err := q.Push(c.Head, 0); err != nil {
					t.Errorf("Push = %v", err)
				}
				return
			}
			if err == nil || ok {
				t.Fatalf("Pop = %v, %v: accepted", shape(c.Readable), shape(c.Writable))
			}
			// The queue is dead and says why.
			if _, _, again := q.Pop(); !errors.Is(again, err) {
				t.Errorf("second Pop = %v, want %v", again, err)
			}
			if _, again := q.SetNotify(true); !errors.Is(again, err) {
				t.Errorf("SetNotify = %v, want %v", again, err)
			}
			if _, again := q.Push(0, 0); !errors.Is(again, err) {
				t.Errorf("Push = %v, want %v", again, err)
			}
			if r.UsedIdx() != 0 {
				t.Error("the used index moved")
			}
		})
	}
}

// TestChainBytes offers the same megabyte often enough to exceed the limit.
func TestChainBytes(t *testing.T) {
	const megabyte = 1 << 20
	for _, n := range []int{virtqueue.MaxChainBytes / megabyte, virtqueue.MaxChainBytes/megabyte + 1} {
		mem := virtiotest.Memory(2*megabyte, 0)
		r := virtiotest.NewRing(mem, 0, 2048, false, false)
		q, err := virtqueue.New(mem, r.Config)
		if err != nil {
			t.Fatal(err)
		}
		var buffers []virtiotest.Buffer
		for range n {
			buffers = append(buffers, virtiotest.Buffer{Addr: megabyte, Len: megabyte})
		}
		r.Add(buffers...)
		_, ok, err := q.Pop()
		if want := n*megabyte <= virtqueue.MaxChainBytes; ok != want || (err == nil) != want {
			t.Errorf("Pop of %d MiB = %v, %v", n, ok, err)
		}
	}
}

func TestIndexJump(t *testing.T) {
	for _, tc := range []struct {
		idx uint16
		ok  bool
	}{{8, true}, {9, false}, {0x8000, false}, {0xffff, false}} {
		q, r := newQueue(t, 8, false, false)
		for i := range uint16(8) {
			r.SetAvailable(i, i)
		}
		r.SetAvailableIdx(tc.idx)
		if _, ok, err := q.Pop(); ok != tc.ok || (err == nil) != tc.ok {
			t.Errorf("Pop with index %d = %v, %v", tc.idx, ok, err)
		}
		q, r = newQueue(t, 8, true, false)
		r.SetAvailableIdx(tc.idx)
		if pending, err := q.SetNotify(true); pending != tc.ok || (err == nil) != tc.ok {
			t.Errorf("SetNotify with index %d = %v, %v", tc.idx, pending, err)
		}
	}
}

func TestHeadTwice(t *testing.T) {
	q, r := newQueue(t, 8, false, false)
	r.SetDescriptor(3, virtiotest.Descriptor{Addr: dataAddr, Len: 1})
	r.Publish(3)
	r.Publish(3)
	if _, ok, err := q.Pop(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, _, err := q.Pop(); err == nil {
		t.Error("a head that is in flight was popped again")
	}
}

func TestPushNotInFlight(t *testing.T) {
	q, r := newQueue(t, 8, false, false)
	head, _ := r.Add(virtiotest.Buffer{Addr: dataAddr, Len: 1})
	for _, h := range []uint16{head, 5, 8, 0xffff} {
		if _, err := q.Push(h, 0); err == nil {
			t.Errorf("Push(%d) of what was not popped succeeded", h)
		}
	}
	if _, ok, err := q.Pop(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := q.Push(head, 0); err != nil {
		t.Error(err)
	}
	if _, err := q.Push(head, 0); err == nil {
		t.Error("second Push succeeded")
	}
	if r.UsedIdx() != 1 {
		t.Errorf("used index %d, want 1", r.UsedIdx())
	}
}

func TestStop(t *testing.T) {
	q, r := newQueue(t, 8, false, false)
	head, _ := r.Add(virtiotest.Buffer{Addr: dataAddr, Len: 1})
	if _, ok, err := q.Pop(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	q.Stop()
	if _, err := q.Push(head, 0); !errors.Is(err, virtqueue.ErrStopped) {
		t.Errorf("Push = %v, want ErrStopped", err)
	}
	if _, _, err := q.Pop(); !errors.Is(err, virtqueue.ErrStopped) {
		t.Errorf("Pop = %v, want ErrStopped", err)
	}
	if r.UsedIdx() != 0 {
		t.Error("a stopped queue wrote to its ring")
	}
}

// TestInterrupts compares what Push reports with sections 2.7.7 and 2.7.10.
func TestInterrupts(t *testing.T) {
	cycle := func(q *virtqueue.Queue, r *virtiotest.Ring) bool {
		t.Helper()
		r.Add(virtiotest.Buffer{Addr: dataAddr, Len: 1})
		c, ok, err := q.Pop()
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		notify, err := q.Push(c.Head, 0)
		if err != nil {
			t.Fatal(err)
		}
		r.Used()
		return notify
	}
	q, r := newQueue(t, 4, false, false)
	if !cycle(q, r) {
		t.Error("no interrupt with flags 0")
	}
	r.SetNoInterrupt(true)
	if cycle(q, r) {
		t.Error("an interrupt with NO_INTERRUPT")
	}

	q, r = newQueue(t, 4, true, false)
	r.SetNoInterrupt(true) // means nothing here
	r.SetUsedEvent(2)
	for i, want := range []bool{false, false, true, false, false} {
		if got := cycle(q, r); got != want {
			t.Errorf("interrupt %v with used index %d, want %v", got, i+1, want)
		}
	}
	for range 0x10000 - 5 { // to where the index is 0 again
		cycle(q, r)
	}
	r.SetUsedEvent(0xffff)
	if cycle(q, r) {
		t.Error("an interrupt for used event 65535 with used index 1")
	}
}

// TestKicks checks what SetNotify asks of the driver.
func TestKicks(t *testing.T) {
	set := func(q *virtqueue.Queue, on, want bool) {
		t.Helper()
		if pending, err := q.SetNotify(on); pending != want || err != nil {
			t.Errorf("SetNotify(%v) = %v, %v, want %v", on, pending, err, want)
		}
	}
	b := virtiotest.Buffer{Addr: dataAddr, Len: 1}
	q, r := newQueue(t, 4, false, false)
	set(q, false, false)
	if r.UsedFlags() != 1 {
		t.Errorf("used flags %d after SetNotify(false)", r.UsedFlags())
	}
	r.Add(b)
	set(q, true, true)
	if r.UsedFlags() != 0 {
		t.Errorf("used flags %d after SetNotify(true)", r.UsedFlags())
	}

	q, r = newQueue(t, 4, true, false)
	r.Add(b)
	r.Add(b)
	set(q, true, true)
	q.Pop()
	q.Pop()
	if r.AvailableEvent() != 0 {
		t.Errorf("available event %d before SetNotify", r.AvailableEvent())
	}
	set(q, true, false)
	if r.AvailableEvent() != 2 || r.UsedFlags() != 0 {
		t.Errorf("available event %d, used flags %d, want 2 and 0", r.AvailableEvent(), r.UsedFlags())
	}
}

// TestConcurrent has chains popped by one goroutine and pushed by several, as
// virtio-fs does, under a driver that waits for nothing.
func TestConcurrent(t *testing.T) {
	const total, workers = 5000, 4
	q, r := newQueue(t, 16, true, false)
	work := make(chan virtqueue.Chain)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for c := range work {
				head := c.Head
				n := uint32(len(c.Readable[0]))
				c.Release()
				if _, err := q.Push(head, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		defer close(work)
		for n := 0; n < total; {
			c, ok, err := q.Pop()
			if err != nil {
				t.Error(err)
				return
			}
			if ok {
				work <- c
				n++
			}
		}
	}()
	lengths := map[uint16]uint32{}
	for added, used := 0, 0; used < total; {
		if added < total {
			length := uint32(added%100 + 1)
			if head, ok := r.Add(virtiotest.Buffer{Addr: dataAddr, Len: length}); ok {
				lengths[head] = length
				added++
			}
		}
		if head, n, ok := r.Used(); ok {
			if lengths[head] != n {
				t.Fatalf("chain %d came back with %d, want %d", head, n, lengths[head])
			}
			used++
		}
	}
	wg.Wait()
}

func TestPopDoesNotAllocate(t *testing.T) {
	q, r := newQueue(t, 16, true, false)
	b := virtiotest.Buffer{Addr: dataAddr, Len: 16}
	r.Add(b, b, b)
	n := testing.AllocsPerRun(1000, func() {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		head := c.Head
		c.Release()
		if _, err := q.Push(head, 0); err != nil {
			t.Fatal(err)
		}
		r.Publish(head)
	})
	// The pool may be emptied by the garbage collector, or on purpose under
	// the race detector.
	if n > 1 {
		t.Errorf("%v allocations for a chain", n)
	}
}

func BenchmarkPopPush(b *testing.B) {
	for name, buffers := range map[string]int{"1": 1, "4": 4, "16": 16} {
		for _, indirect := range []bool{false, true} {
			if indirect {
				name += "indirect"
			}
			b.Run(name, func(b *testing.B) {
				q, r := newQueue(b, 64, true, true)
				var bs []virtiotest.Buffer
				for range buffers {
					bs = append(bs, virtiotest.Buffer{Addr: dataAddr, Len: 64})
				}
				var head uint16
				if indirect {
					head, _ = r.AddIndirect(dataAddr+0x1000, bs...)
				} else {
					head, _ = r.Add(bs...)
				}
				b.ReportAllocs()
				for b.Loop() {
					c, _, err := q.Pop()
					if err != nil {
						b.Fatal(err)
					}
					c.Release()
					if _, err := q.Push(head, 0); err != nil {
						b.Fatal(err)
					}
					r.Publish(head)
				}
			})
		}
	}
}
