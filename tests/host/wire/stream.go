package wire

import (
	"bufio"
	"errors"
	"io"
	"sync"
)

func newReader(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 64<<10) }

// ErrAborted is returned by a stream whose session has ended.
var ErrAborted = errors.New("session ended")

// Sender is the sending half of one stream.
type Sender struct {
	conn    *Conn
	session uint32
	stream  uint8

	mu      sync.Mutex
	changed sync.Cond
	credit  int
	aborted bool
}

// NewSender returns a Sender with a full window.
func NewSender(conn *Conn, session uint32, stream uint8) *Sender {
	s := &Sender{conn: conn, session: session, stream: stream, credit: Window}
	s.changed.L = &s.mu
	return s
}

// Write sends p, waiting for credit as needed.
func (s *Sender) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := s.reserve(len(p) - sent)
		if err != nil {
			return sent, err
		}
		f := Frame{Session: s.session, Kind: Data, Stream: s.stream, Payload: p[sent : sent+n]}
		if err := s.conn.Write(f); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

func (s *Sender) reserve(want int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credit == 0 && !s.aborted {
		s.changed.Wait()
	}
	if s.aborted {
		return 0, ErrAborted
	}
	n := min(want, s.credit, MaxPayload)
	s.credit -= n
	return n, nil
}

// Close sends the end of the stream.
func (s *Sender) Close() error {
	return s.conn.Write(Frame{Session: s.session, Kind: EOF, Stream: s.stream})
}

// Grant adds credit the receiver gave.
func (s *Sender) Grant(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit = min(s.credit+int(min(n, Window)), Window)
	s.changed.Broadcast()
}

// Abort makes pending and later writes fail.
func (s *Sender) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	s.changed.Broadcast()
}

// Receiver is the receiving half of one stream: a queue bounded by Window.
type Receiver struct {
	conn    *Conn
	session uint32
	stream  uint8

	mu      sync.Mutex
	changed sync.Cond
	queue   [][]byte
	queued  int
	eof     bool
	aborted bool
}

// NewReceiver returns an empty Receiver.
func NewReceiver(conn *Conn, session uint32, stream uint8) *Receiver {
	r := &Receiver{conn: conn, session: session, stream: stream}
	r.changed.L = &r.mu
	return r
}

// Put queues the payload of a Data frame. It never blocks; a sender that
// exceeds its credit is an error.
func (r *Receiver) Put(p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queued+len(p) > Window {
		return errors.New("sender exceeded its credit")
	}
	r.queue = append(r.queue, p)
	r.queued += len(p)
	r.changed.Broadcast()
	return nil
}

// End marks the end of the stream.
func (r *Receiver) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eof = true
	r.changed.Broadcast()
}

// Abort drops what is queued and makes CopyTo return.
func (r *Receiver) Abort() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aborted, r.queue = true, nil
	r.changed.Broadcast()
}

// CopyTo writes the stream to w until its end. When w fails, the rest is read
// and dropped, so that the sender is never stuck, and the error is returned at
// the end.
func (r *Receiver) CopyTo(w io.Writer) error {
	var failed error
	for {
		p, err := r.next()
		if err == io.EOF {
			return failed
		}
		if err != nil {
			return err
		}
		if failed == nil {
			_, failed = w.Write(p)
		}
		f := Frame{Session: r.session, Kind: Credit, Stream: r.stream, Payload: Uint32(uint32(len(p)))}
		if err := r.conn.Write(f); err != nil {
			return err
		}
	}
}

func (r *Receiver) next() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.eof && !r.aborted {
		r.changed.Wait()
	}
	switch {
	case r.aborted:
		return nil, ErrAborted
	case len(r.queue) == 0:
		return nil, io.EOF
	}
	p := r.queue[0]
	r.queue = r.queue[1:]
	r.queued -= len(p)
	return p, nil
}
