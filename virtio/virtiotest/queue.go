package virtiotest

import (
	"fmt"

	"runv.dev/runv/virtio/mmio"
)

// Queue is a ring with a device behind it. One goroutine at a time may use it.
type Queue struct {
	*Ring

	d        *Driver
	index    uint32
	requests map[uint16]*Request
	free     map[uint32][]uint64 // recycled buffers by length
}

// Request is a chain that was handed to the device.
type Request struct {
	Head    uint16
	Len     uint32 // bytes written by the device, once done
	Done    bool
	buffers []Buffer
	q       *Queue
}

// Notify kicks the device, wanted or not.
func (q *Queue) Notify() { q.d.Set(mmio.QueueNotify, q.index) }

// Submit makes a chain of out (one descriptor each) and of writable buffers of
// the lengths in available, and kicks the device if it asked for it.
func (q *Queue) Submit(out [][]byte, in ...int) *Request {
	q.d.tb.Helper()
	r := &Request{q: q}
	for _, o := range out {
		b := Buffer{Addr: q.alloc(uint32(len(o))), Len: uint32(len(o))}
		must(q.Mem.WriteAt(o, b.Addr))
		r.buffers = append(r.buffers, b)
	}
	for _, n := range in {
		r.buffers = append(r.buffers, Buffer{Addr: q.alloc(uint32(n)), Len: uint32(n), Writable: true})
	}
	old := q.avail
	head, ok := q.Add(r.buffers...)
	if !ok {
		q.d.tb.Fatalf("queue %d: no free descriptors", q.index)
	}
	r.Head = head
	q.requests[head] = r
	if q.wantsKick(old) {
		q.Notify()
	}
	return r
}

// Wait returns the next finished request, waiting for its interrupt.
func (q *Queue) Wait() *Request {
	q.d.tb.Helper()
	q.d.Until(fmt.Sprintf("queue %d", q.index), func() bool { return q.ArmInterrupt() })
	return q.Done()
}

// Done returns the next finished request without waiting, or nil.
func (q *Queue) Done() *Request {
	head, n, ok := q.Used()
	if !ok {
		return nil
	}
	r := q.requests[head]
	if r == nil {
		q.d.tb.Fatalf("queue %d: the device returned chain %d, which it did not have", q.index, head)
	}
	delete(q.requests, head)
	r.Len, r.Done = n, true
	return r
}

// Data returns what the device wrote: the first Len bytes of the writable
// buffers. It gives the buffers back, so it is called once at most.
func (r *Request) Data() []byte {
	var data []byte
	left := r.Len
	for _, b := range r.buffers {
		if b.Writable {
			p := make([]byte, min(left, b.Len))
			must(r.q.Mem.ReadAt(p, b.Addr))
			data = append(data, p...)
			left -= uint32(len(p))
		}
	}
	if left != 0 {
		r.q.d.tb.Errorf("device reports %d bytes written, %d more than there was room for", r.Len, left)
	}
	r.Free()
	return data
}

// Free gives the buffers of a finished request back.
func (r *Request) Free() {
	if r.q.free == nil {
		r.q.free = map[uint32][]uint64{}
	}
	for _, b := range r.buffers {
		r.q.free[b.Len] = append(r.q.free[b.Len], b.Addr)
	}
	r.buffers = nil
}

// Do submits out with room for in bytes, waits until the device is done with
// it, and returns what it wrote. Nothing else may be under way.
func (q *Queue) Do(out []byte, in int) []byte {
	q.d.tb.Helper()
	var outs [][]byte
	if len(out) > 0 {
		outs = [][]byte{out}
	}
	var ins []int
	if in > 0 {
		ins = []int{in}
	}
	r := q.Submit(outs, ins...)
	if done := q.Wait(); done != r {
		q.d.tb.Fatalf("queue %d: chain %d came back instead of %d", q.index, done.Head, r.Head)
	}
	return r.Data()
}

func (q *Queue) alloc(n uint32) uint64 {
	if list := q.free[n]; len(list) > 0 {
		q.free[n] = list[:len(list)-1]
		return list[len(list)-1]
	}
	return q.d.Alloc(uint64(max(n, 1)))
}
