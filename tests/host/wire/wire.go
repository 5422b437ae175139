// Package wire is the protocol between a test host's control program and the
// agent that runs commands inside it.
//
// One byte stream (a virtio-serial port, or a socket pair) carries the frames of
// any number of sessions; a session is one command with its three standard
// streams. Each stream is flow-controlled end to end by credit, so a slow reader
// of one session never holds up another.
//
// A frame is an 8 byte little-endian header followed by its payload:
//
//	offset 0  uint32  session
//	offset 4  uint8   kind
//	offset 5  uint8   stream (0 stdin, 1 stdout, 2 stderr)
//	offset 6  uint16  payload length in bytes, at most MaxPayload
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame means.
type Kind uint8

// The kinds of frame. "Client" is the side that asks for a command.
const (
	Hello    Kind = iota + 1 // agent to control program, once: commands can be sent
	Start                    // client: Command, JSON, in as many frames as it needs; an empty frame ends it
	Data                     // both: bytes of a stream
	EOF                      // both: a stream's end
	Credit                   // both: uint32, this many more bytes of the stream may be sent
	Signal                   // client: uint32, deliver this signal to the command's process group
	Abort                    // client: kill the command and everything in its POSIX session
	Exit                     // agent: uint32 exit status, then an error text, possibly empty
	Shutdown                 // client to control program: end the whole host
)

// The standard streams of a command.
const (
	Stdin uint8 = iota
	Stdout
	Stderr
	streams
)

const (
	headerSize = 8
	// MaxPayload keeps a whole frame within the 32 KiB buffer a Linux
	// virtio-serial port hands to the device in one piece.
	MaxPayload = 32<<10 - headerSize
	// Window is how many bytes of a stream may be under way before the
	// receiver has granted more.
	Window = 512 << 10
	// MaxCommand bounds the JSON of one Command.
	MaxCommand = 4 << 20
)

// Frame is one message.
type Frame struct {
	Session uint32
	Kind    Kind
	Stream  uint8
	Payload []byte
}

// Command describes what to run. It is a Start message's content.
type Command struct {
	Args []string
	Env  []string
	Dir  string
}

// Conn reads and writes frames. Write may be called concurrently, Read may not.
type Conn struct {
	r io.Reader

	mu  sync.Mutex
	w   io.Writer
	buf [headerSize + MaxPayload]byte
}

// NewConn returns a Conn over rw.
func NewConn(rw io.ReadWriter) *Conn {
	return &Conn{r: newReader(rw), w: rw}
}

// Read returns the next frame. Its payload belongs to the caller. The error is
// io.EOF when the stream ends between two frames.
func (c *Conn) Read() (Frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{
		Session: binary.LittleEndian.Uint32(h[0:]),
		Kind:    Kind(h[4]),
		Stream:  h[5],
	}
	n := int(binary.LittleEndian.Uint16(h[6:]))
	if n > MaxPayload || f.Stream >= streams || f.Kind < Hello || f.Kind > Shutdown {
		return Frame{}, fmt.Errorf("malformed frame: kind %d, stream %d, %d bytes", f.Kind, f.Stream, n)
	}
	f.Payload = make([]byte, n)
	if _, err := io.ReadFull(c.r, f.Payload); err != nil {
		return Frame{}, fmt.Errorf("read frame: %w", noEOF(err))
	}
	return f, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write sends one frame.
func (c *Conn) Write(f Frame) error {
	if len(f.Payload) > MaxPayload {
		return fmt.Errorf("payload of %d bytes exceeds %d", len(f.Payload), MaxPayload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	binary.LittleEndian.PutUint32(c.buf[0:], f.Session)
	c.buf[4], c.buf[5] = byte(f.Kind), f.Stream
	binary.LittleEndian.PutUint16(c.buf[6:], uint16(len(f.Payload)))
	n := headerSize + copy(c.buf[headerSize:], f.Payload)
	_, err := c.w.Write(c.buf[:n])
	return err
}

// Uint32 encodes the payload of Credit, Signal and the head of Exit.
func Uint32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// ParseUint32 is the inverse of Uint32; rest is what follows the number.
func ParseUint32(p []byte) (v uint32, rest []byte, err error) {
	if len(p) < 4 {
		return 0, nil, fmt.Errorf("payload of %d bytes holds no number", len(p))
	}
	return binary.LittleEndian.Uint32(p), p[4:], nil
}
