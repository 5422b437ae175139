package vsock

import (
	"sync"

	"runv.dev/runv/virtio/virtqueue"
)

const (
	smallChunk = 4 << 10
	largeChunk = 64 << 10 // the largest packet of a Linux driver
)

var largeChunks = sync.Pool{New: func() any { return &chunk{data: make([]byte, largeChunk)} }}

// chunk is a piece of received data: data[off:end].
type chunk struct {
	data     []byte
	off, end int
	next     *chunk
}

func newChunk(size int) *chunk {
	if size == largeChunk {
		return largeChunks.Get().(*chunk)
	}
	return &chunk{data: make([]byte, size)}
}

func (c *chunk) release() {
	if len(c.data) == largeChunk {
		c.off, c.end, c.next = 0, 0, nil
		largeChunks.Put(c)
	}
}

// buffer is a FIFO of bytes that costs nothing when empty, and otherwise at
// most what it holds and two chunks. How much it holds is bounded by whoever
// appends: by the credit given to the peer.
type buffer struct {
	head, tail *chunk
	n          int
	large      bool // use large chunks
}

// append copies n bytes from r to the end.
func (b *buffer) append(r *virtqueue.Reader, n int) {
	for n > 0 {
		if b.tail == nil || b.tail.end == len(b.tail.data) {
			size := smallChunk
			if b.large && (n > smallChunk || b.tail != nil) {
				size = largeChunk
			}
			c := newChunk(size)
			if b.tail == nil {
				b.head = c
			} else {
				b.tail.next = c
			}
			b.tail = c
		}
		t := b.tail
		m, _ := r.Read(t.data[t.end:min(len(t.data), t.end+n)])
		if m == 0 {
			return // shorter than promised; the caller has checked
		}
		t.end += m
		b.n += m
		n -= m
	}
}

// read takes up to len(p) bytes from the start.
func (b *buffer) read(p []byte) int {
	n := 0
	for n < len(p) && b.head != nil {
		h := b.head
		m := copy(p[n:], h.data[h.off:h.end])
		h.off += m
		n += m
		if h.off == h.end {
			b.drop()
		}
	}
	b.n -= n
	return n
}

// skip drops up to n bytes from the start.
func (b *buffer) skip(n int) {
	for n > 0 && b.head != nil {
		h := b.head
		m := min(n, h.end-h.off)
		h.off += m
		b.n -= m
		n -= m
		if h.off == h.end {
			b.drop()
		}
	}
}

// drop releases the first chunk, which is used up.
func (b *buffer) drop() {
	h := b.head
	if b.head = h.next; b.head == nil {
		b.tail = nil
	}
	h.release()
}

// take removes the first chunk and hands it over; nil when empty.
func (b *buffer) take() *chunk {
	h := b.head
	if h == nil {
		return nil
	}
	if b.head = h.next; b.head == nil {
		b.tail = nil
	}
	h.next = nil
	b.n -= h.end - h.off
	return h
}

// clear drops everything.
func (b *buffer) clear() {
	for b.head != nil {
		b.drop()
	}
	b.n = 0
}
