package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

func TestFrameRoundTrip(t *testing.T) {
	for _, want := range []Frame{
		{Kind: Hello, Payload: []byte("tcg")},
		{Session: 7, Kind: Data, Stream: Stderr, Payload: []byte{0, '\r', '\n', 0xff}},
		{Session: 1<<32 - 1, Kind: Shutdown, Payload: []byte{}},
		{Session: 1, Kind: Data, Payload: bytes.Repeat([]byte("x"), MaxPayload)},
	} {
		var buf bytes.Buffer
		c := NewConn(&buf)
		if err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		got, err := NewConn(&buf).Read()
		if err != nil {
			t.Fatal(err)
		}
		if got.Session != want.Session || got.Kind != want.Kind || got.Stream != want.Stream || !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestWriteRefusesLongPayload(t *testing.T) {
	var buf bytes.Buffer
	if err := NewConn(&buf).Write(Frame{Kind: Data, Payload: make([]byte, MaxPayload+1)}); err == nil || buf.Len() > 0 {
		t.Errorf("error %v, %d bytes written; want an error and none", err, buf.Len())
	}
}

func TestReadMalformed(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		eof         bool
	}{
		{"end between frames", "", true},
		{"half a header", "\x01\x00\x00", false},
		{"kind 0", "\x01\x00\x00\x00\x00\x00\x00\x00", false},
		{"kind beyond the last", "\x01\x00\x00\x00\x63\x00\x00\x00", false},
		{"stream 3", "\x01\x00\x00\x00\x03\x03\x00\x00", false},
		{"payload too long", "\x01\x00\x00\x00\x03\x00\xff\xff", false},
		{"payload cut", "\x01\x00\x00\x00\x03\x00\x02\x00a", false},
	} {
		_, err := NewConn(bytes.NewBuffer([]byte(tc.bytes))).Read()
		if err == nil || (err == io.EOF) != tc.eof {
			t.Errorf("%s: error %v", tc.name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x03\x00\x02\x00ab"))
	f.Add([]byte("\x01\x00\x00\x00\x05\x01\x04\x00\x00\x00\x08\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := NewConn(bytes.NewBuffer(b))
		for {
			frame, err := c.Read()
			if err != nil {
				return
			}
			if len(frame.Payload) > MaxPayload || frame.Stream > Stderr {
				t.Fatalf("accepted %+v", frame)
			}
		}
	})
}

// A stream many windows long arrives whole, with the receiver's credit as the
// only thing that lets the sender go on.
func TestFlowControl(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	near, far := NewConn(a), NewConn(b)
	s, r := NewSender(near, 1, Stdin), NewReceiver(far, 1, Stdin)
	want := make([]byte, 5*Window+123)
	rand.NewChaCha8([32]byte{}).Read(want)

	go func() { // frames to the receiver
		for {
			f, err := far.Read()
			if err != nil {
				return
			}
			if f.Kind == EOF {
				r.End()
			} else if err := r.Put(f.Payload); err != nil {
				t.Error(err)
			}
		}
	}()
	go func() { // credit to the sender
		for {
			f, err := near.Read()
			if err != nil {
				return
			}
			n, _, err := ParseUint32(f.Payload)
			if err != nil {
				t.Error(err)
			}
			s.Grant(n)
		}
	}()
	go func() {
		if _, err := s.Write(want); err != nil {
			t.Error(err)
		}
		s.Close()
	}()
	var got bytes.Buffer
	if err := r.CopyTo(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes arrived changed; %d were sent", got.Len(), len(want))
	}
}

func TestReceiverRefusesExcess(t *testing.T) {
	r := NewReceiver(NewConn(new(bytes.Buffer)), 1, Stdout)
	if err := r.Put(make([]byte, Window)); err != nil {
		t.Fatal(err)
	}
	if err := r.Put([]byte{0}); err == nil {
		t.Error("a byte beyond the window was accepted")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

// A broken destination must not leave the sender without credit.
func TestCopyToDrainsAfterFailure(t *testing.T) {
	var credit bytes.Buffer
	r := NewReceiver(NewConn(&credit), 1, Stdout)
	for range 2 {
		if err := r.Put([]byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	r.End()
	if err := r.CopyTo(failingWriter{}); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("error %v, want the writer's", err)
	}
	c := NewConn(&credit)
	for range 2 {
		f, err := c.Read()
		if err != nil || f.Kind != Credit || !bytes.Equal(f.Payload, Uint32(3)) {
			t.Errorf("frame %+v, error %v; want credit for 3 bytes", f, err)
		}
	}
}

func TestAbortUnblocks(t *testing.T) {
	conn := NewConn(new(bytes.Buffer))
	s := NewSender(conn, 1, Stdout)
	done := make(chan error)
	go func() {
		_, err := s.Write(make([]byte, 2*Window))
		done <- err
	}()
	s.Abort()
	if err := <-done; !errors.Is(err, ErrAborted) {
		t.Errorf("Write: %v, want ErrAborted", err)
	}
	r := NewReceiver(conn, 1, Stdin)
	go func() { done <- r.CopyTo(io.Discard) }()
	r.Abort()
	if err := <-done; !errors.Is(err, ErrAborted) {
		t.Errorf("CopyTo: %v, want ErrAborted", err)
	}
}
