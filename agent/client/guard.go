package client

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"runv.dev/runv/agent/protocol"
)

// The frames of ttrpc: a header of length (4 bytes, big endian), stream id
// (4 bytes), type and flags, then the message.
const (
	frameHeader   = 10
	frameRequest  = 1
	frameResponse = 2
)

type frame struct {
	length uint32
	stream uint32
	kind   uint8
}

// scanner finds the frame headers in a byte stream.
type scanner struct {
	header [frameHeader]byte
	have   int    // bytes of header
	body   uint32 // bytes of the message still to come
}

// scan looks at the next bytes of the stream and calls fn for every header that
// is completed in them. It stops at fn's error.
func (s *scanner) scan(p []byte, fn func(frame) error) error {
	for len(p) > 0 {
		if s.body > 0 {
			n := min(uint64(s.body), uint64(len(p)))
			s.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(s.header[s.have:], p)
		s.have += n
		p = p[n:]
		if s.have < frameHeader {
			return nil
		}
		s.have = 0
		f := frame{
			length: binary.BigEndian.Uint32(s.header[:4]),
			stream: binary.BigEndian.Uint32(s.header[4:8]),
			kind:   s.header[8],
		}
		if err := fn(f); err != nil {
			return err
		}
		s.body = f.length
	}
	return nil
}

// guard is a control connection that ends at the first frame no agent sends:
// one that is too large, no response, or a response to nothing. The RPC library
// would discard, or log, such frames for ever.
type guard struct {
	net.Conn

	out scanner // of the one writer
	in  scanner // of the one reader

	mu          sync.Mutex
	outstanding map[uint32]struct{} // streams with a request and no response yet
	broken      error
}

func newGuard(conn net.Conn) *guard {
	return &guard{Conn: conn, outstanding: make(map[uint32]struct{})}
}

// violation is the broken rule, nil if there is none.
func (g *guard) violation() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

func (g *guard) Write(p []byte) (int, error) {
	// Before the bytes leave, so that no response can be faster.
	g.mu.Lock()
	err := g.out.scan(p, func(f frame) error {
		if f.kind == frameRequest {
			g.outstanding[f.stream] = struct{}{}
		}
		return nil
	})
	g.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken == nil {
		g.broken = g.in.scan(p[:n], g.checkResponse)
	}
	if g.broken != nil {
		g.Conn.Close()
		return 0, g.broken
	}
	return n, err
}

func (g *guard) checkResponse(f frame) error {
	if f.kind != frameResponse {
		return fmt.Errorf("%w: frame of type %d", ErrProtocol, f.kind)
	}
	if f.length > protocol.MaxMessage {
		return fmt.Errorf("%w: frame of %d bytes", ErrProtocol, f.length)
	}
	if _, asked := g.outstanding[f.stream]; !asked {
		return fmt.Errorf("%w: response to request %d, which there is not", ErrProtocol, f.stream)
	}
	delete(g.outstanding, f.stream)
	return nil
}
