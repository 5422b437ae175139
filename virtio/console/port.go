package console

import (
	"errors"
	"io"
	"sync"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

// port is a Port with its buffers, which outlive a reset of the device.
type port struct {
	Port
	out *output
	in  *input

	mu     sync.Mutex
	isOpen bool
	opened chan struct{} // closed while the guest has the port open
}

func newPort(p Port) *port {
	return &port{Port: p, out: newOutput(p.Out), in: newInput(p.In), opened: make(chan struct{})}
}

// setOpen says whether the guest takes input.
func (p *port) setOpen(open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case open == p.isOpen:
	case open:
		close(p.opened)
	default:
		p.opened = make(chan struct{})
	}
	p.isOpen = open
}

func (p *port) whenOpen() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

// transmit moves the guest's output to the buffer of the port.
func (p *port) transmit(s *session, q virtio.ActiveQueue) error {
	return q.Serve(s.stop, func(c *virtqueue.Chain) (uint32, error) {
		if len(c.Writable) != 0 {
			return 0, errors.New("writable buffer")
		}
		p.out.append(virtqueue.NewReader(c.Readable), s.stop)
		return 0, nil
	})
}

// receive moves input to the guest's buffers until it ends.
func (p *port) receive(s *session, q virtio.ActiveQueue, ended func()) error {
	for {
		select {
		case <-p.whenOpen():
		case <-s.stop:
			return nil
		}
		if !p.in.wait(s.stop) {
			if p.in.ended {
				ended()
			}
			return nil
		}
		c, ok, err := q.Next(s.stop)
		if err != nil || !ok {
			return err
		}
		if len(c.Readable) != 0 {
			return errors.New("readable buffer")
		}
		n := p.in.take(c.Writable)
		head := c.Head
		c.Release()
		if err := q.Done(head, uint32(n)); err != nil {
			return err
		}
	}
}

// maxOutput bounds the output that is buffered for a port, in bytes.
const maxOutput = 64 << 10

// output is a bounded buffer in front of a writer. A goroutine writes while
// there is something to be written, and only then.
type output struct {
	w    io.Writer
	room chan struct{} // some of buf was taken

	mu    sync.Mutex
	buf   []byte
	spare []byte        // the buffer that is not in use
	idle  chan struct{} // closed when all is written
	busy  bool
	dead  bool // the writer failed
}

func newOutput(w io.Writer) *output {
	o := &output{w: w, room: make(chan struct{}, 1), idle: make(chan struct{}), dead: w == nil}
	close(o.idle)
	return o
}

// append adds what r has left, waiting for room as long as stop is not closed.
// There is one caller at a time.
func (o *output) append(r virtqueue.Reader, stop <-chan struct{}) {
	for {
		if o.fill(&r) {
			return
		}
		select {
		case <-o.room:
		case <-stop:
			return
		}
	}
}

// fill adds as much as there is room for, and reports whether that was all.
func (o *output) fill(r *virtqueue.Reader) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return true
	}
	for len(o.buf) < maxOutput {
		b := r.Next(maxOutput - len(o.buf))
		if b == nil {
			break
		}
		o.buf = append(o.buf, b...)
		o.start()
	}
	return r.Len() == 0
}

// tryAppend adds a byte if there is room for it.
func (o *output) tryAppend(b byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dead && len(o.buf) < maxOutput {
		o.buf = append(o.buf, b)
		o.start()
	}
}

// start starts the writing goroutine if there is none. The caller holds o.mu.
func (o *output) start() {
	if !o.busy {
		o.busy = true
		o.idle = make(chan struct{})
		go o.write()
	}
}

func (o *output) write() {
	for {
		o.mu.Lock()
		b := o.buf
		if len(b) == 0 || o.dead {
			o.busy = false
			o.discard()
			close(o.idle)
			o.mu.Unlock()
			o.signal()
			return
		}
		o.buf, o.spare = o.spare[:0], nil
		o.mu.Unlock()
		o.signal()

		n, err := o.w.Write(b)

		o.mu.Lock()
		o.dead = err != nil || n != len(b)
		o.spare = b
		o.mu.Unlock()
	}
}

// discard empties the buffers, and keeps only small ones while idle. The
// caller holds o.mu.
func (o *output) discard() {
	const keep = 4 << 10
	if o.buf = o.buf[:0]; cap(o.buf) > keep {
		o.buf = nil
	}
	if cap(o.spare) > keep {
		o.spare = nil
	}
}

func (o *output) signal() {
	select {
	case o.room <- struct{}{}:
	default:
	}
}

// flushed is closed once all that was appended is written or discarded.
func (o *output) flushed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.idle
}

// inputChunk is how much is read at once, in bytes.
const inputChunk = 32 << 10

// input reads ahead one chunk.
type input struct {
	r      io.Reader
	start  sync.Once
	chunks chan []byte // closed at the end

	// What follows belongs to who receives: one goroutine of one session.
	rest  []byte // of the current chunk
	ended bool
}

func newInput(r io.Reader) *input { return &input{r: r, chunks: make(chan []byte)} }

// wait waits for input. It returns false at its end and when stop is closed.
func (in *input) wait(stop <-chan struct{}) bool {
	in.start.Do(func() { go in.read() })
	for len(in.rest) == 0 {
		select {
		case b, ok := <-in.chunks:
			if !ok {
				in.ended = true
				return false
			}
			in.rest = b
		case <-stop:
			return false
		}
	}
	return true
}

// take moves input to buffers and returns the number of bytes.
func (in *input) take(buffers [][]byte) int {
	n := virtqueue.CopyIn(buffers, in.rest)
	in.rest = in.rest[n:]
	return n
}

// read uses two buffers in turn: the one it fills while the other is rest is
// sent when that has been used up.
func (in *input) read() {
	defer close(in.chunks)
	var buffers [2][]byte
	for i := 0; ; i = 1 - i {
		if buffers[i] == nil {
			buffers[i] = make([]byte, inputChunk)
		}
		n, err := in.r.Read(buffers[i])
		if n > 0 {
			in.chunks <- buffers[i][:n]
		}
		if err != nil {
			return
		}
	}
}
