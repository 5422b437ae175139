package virtqueue

import "io"

// Len returns the total length of buffers in bytes.
func Len(buffers [][]byte) int {
	n := 0
	for _, b := range buffers {
		n += len(b)
	}
	return n
}

// CopyOut copies from the start of src to dst and returns the number of bytes
// copied: the shorter of the two.
func CopyOut(dst []byte, src [][]byte) int {
	n := 0
	for _, b := range src {
		if n == len(dst) {
			break
		}
		n += copy(dst[n:], b)
	}
	return n
}

// CopyIn copies src to the start of dst and returns the number of bytes
// copied: the shorter of the two.
func CopyIn(dst [][]byte, src []byte) int {
	n := 0
	for _, b := range dst {
		if n == len(src) {
			break
		}
		n += copy(b, src[n:])
	}
	return n
}

// Reader reads a chain's readable buffers in order, copying. The zero value is
// at its end.
type Reader struct{ c cursor }

// NewReader returns a Reader of buffers, which it does not modify.
func NewReader(buffers [][]byte) Reader { return Reader{cursor{buffers: buffers}} }

// Len returns the number of bytes left.
func (r *Reader) Len() int { return r.c.left() }

// Read implements io.Reader; it returns less than asked for only at the end.
func (r *Reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		b := r.c.next(len(p) - n)
		if b == nil {
			if n == 0 {
				return 0, io.EOF
			}
			break
		}
		n += copy(p[n:], b)
	}
	return n, nil
}

// Skip passes over n bytes, or what is left, and returns how many.
func (r *Reader) Skip(n int) int { return r.c.skip(n) }

// Next returns up to n bytes of guest memory without copying and passes over
// them: as many as lie in one buffer. It returns nil at the end.
func (r *Reader) Next(n int) []byte { return r.c.next(n) }

// Writer writes a chain's writable buffers in order. The zero value is full.
type Writer struct {
	c cursor
	n uint32
}

// NewWriter returns a Writer to buffers, which it does not modify.
func NewWriter(buffers [][]byte) Writer { return Writer{c: cursor{buffers: buffers}} }

// Len returns the number of bytes left.
func (w *Writer) Len() int { return w.c.left() }

// Written returns the number of bytes passed over, for Queue.Push.
func (w *Writer) Written() uint32 { return w.n }

// Write implements io.Writer; the error is io.ErrShortWrite if p does not fit.
func (w *Writer) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		b := w.Next(len(p) - n)
		if b == nil {
			return n, io.ErrShortWrite
		}
		n += copy(b, p[n:])
	}
	return n, nil
}

// Next returns up to n bytes of guest memory to be filled in and passes over
// them: as many as lie in one buffer. It returns nil when full.
func (w *Writer) Next(n int) []byte {
	b := w.c.next(n)
	w.n += uint32(len(b)) // a chain is shorter than MaxChainBytes
	return b
}

type cursor struct {
	buffers [][]byte
	off     int // in buffers[0]
}

func (c *cursor) left() int { return Len(c.buffers) - c.off }

func (c *cursor) next(n int) []byte {
	for len(c.buffers) > 0 && c.off == len(c.buffers[0]) {
		c.buffers, c.off = c.buffers[1:], 0
	}
	if len(c.buffers) == 0 || n <= 0 {
		return nil
	}
	b := c.buffers[0][c.off:]
	if len(b) > n {
		b = b[:n:n]
	}
	c.off += len(b)
	return b
}

func (c *cursor) skip(n int) int {
	done := 0
	for done < n {
		b := c.next(n - done)
		if b == nil {
			break
		}
		done += len(b)
	}
	return done
}
