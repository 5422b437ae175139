// Package tsi is the VMM's side of transparent socket impersonation: an INET
// socket of the guest is a socket in this process's network namespace.
//
// kernel/tsi/PROTOCOL.md describes the protocol with the guest's kernel. One
// connection from the guest stands for one socket; a connection of its own
// carries what must overtake a socket's data. Everything the guest says goes
// through parse, everything it can make the server hold is bounded by Options,
// and no goroutine that serves one socket waits for another one.
package tsi

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/logging"
)

// Port is the host port of both the STREAM and the SEQPACKET listener.
const Port = 1026

// Conn is a connection from the guest, as virtio/vsock has it. A Read or Write
// of a SEQPACKET connection is one message.
type Conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	// Abort closes the connection with a reset.
	Abort() error
	// ReadMessage reads a message; the error is io.ErrShortBuffer if it is
	// longer than p.
	ReadMessage(p []byte) (n int, eor bool, err error)
	// MessageSize waits for a message and has its length.
	MessageSize() (int, error)
	// Forward, WriteBuffered and SendFrom carry the bytes of a STREAM connection
	// out of and into the guest's memory; see package vsock.
	Forward(take func(bufs [][]byte) int, rest func())
	WriteBuffered(w io.Writer) error
	SendFrom(fill func(bufs [][]byte) (int, error)) (int, error)
	// OnEnd has f called, once and in a goroutine of its own, when the
	// connection is over. orderly says that the guest has closed it.
	OnEnd(f func(orderly bool))
	// Received is the number of bytes that have arrived, modulo 2^32.
	Received() uint32
}

// Options configure a Server. Zero values mean the defaults.
type Options struct {
	Policy *Policy // nil: everything is allowed

	// MaxSockets bounds the guest's sockets; default 16384. MaxDatagram bounds
	// those that are not TCP, which need larger buffers; default 1024.
	MaxSockets, MaxDatagram int

	// FirstTimeout is how long a connection may be open without a message;
	// default 30 seconds.
	FirstTimeout time.Duration

	// DrainTimeout is how long the peer of a closed socket may take none of
	// what is still to be sent; default 2 minutes.
	DrainTimeout time.Duration

	Log *slog.Logger // default: slog.Default
}

// Server makes the guest's sockets.
type Server struct {
	policy       *Policy
	maxSockets   int
	maxDatagram  int
	firstTimeout time.Duration
	drainTimeout time.Duration
	log          *logging.Limited
	counters     counters

	wg sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	conns     map[Conn]struct{}
	sockets   map[uint32]*socket
	datagrams int
	reserved  int // sockets, those without an id yet included
	tokens    map[uint32]*announced
	nextToken uint32
	graves    graves
	control   *controlConn
}

// New returns a server that serves nobody yet.
func New(o Options) *Server {
	s := &Server{
		policy:       o.Policy,
		maxSockets:   cmp.Or(o.MaxSockets, 16384),
		maxDatagram:  cmp.Or(o.MaxDatagram, 1024),
		firstTimeout: cmp.Or(o.FirstTimeout, 30*time.Second),
		drainTimeout: cmp.Or(o.DrainTimeout, 2*time.Minute),
		log:          logging.NewLimited(cmp.Or(o.Log, slog.Default())),
		conns:        make(map[Conn]struct{}),
		sockets:      make(map[uint32]*socket),
		tokens:       make(map[uint32]*announced),
		nextToken:    1,
	}
	return s
}

// Serve accepts the guest's connections until Close: streams has SOCK_STREAM
// ones, packets SOCK_SEQPACKET ones; all are Conns.
func (s *Server) Serve(streams, packets net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, streams, packets)
	s.wg.Go(func() { s.accept(streams, s.serveStream) })
	s.wg.Go(func() { s.accept(packets, s.serveDatagram) })
}

func (s *Server) accept(l net.Listener, serve func(Conn)) {
	for {
		nc, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.log.Error("tsi: accept", "err", err)
			}
			return
		}
		c := nc.(Conn)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Abort()
			continue
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			serve(c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// Close ends everything and returns when it is gone.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	listeners := s.listeners
	s.listeners = nil
	var all []Conn
	for c := range s.conns {
		all = append(all, c)
	}
	var open []*socket
	for _, k := range s.sockets {
		open = append(open, k)
	}
	s.mu.Unlock()
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	for _, c := range all {
		c.Abort()
	}
	for _, k := range open {
		k.close()
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// reserve makes room for a socket before it exists.
func (s *Server) reserve(datagram bool) unix.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return unix.ENETDOWN
	case s.reserved >= s.maxSockets || (datagram && s.datagrams >= s.maxDatagram):
		s.counters.exhausted.Add(1)
		return unix.ENFILE
	}
	s.reserved++
	if datagram {
		s.datagrams++
	}
	return 0
}

func (s *Server) release(datagram bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
	if datagram {
		s.datagrams--
	}
}

// register gives k its id; it returns false if that is in use.
func (s *Server) register(k *socket, id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.sockets[id] != nil {
		return false
	}
	k.id = id
	s.sockets[id] = k
	s.graves.remove(id)
	return true
}

// unregister frees the id of k, whose error the guest may still ask for.
func (s *Server) unregister(k *socket) {
	e := k.storedError()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets[k.id] != k {
		return
	}
	delete(s.sockets, k.id)
	if e != 0 {
		s.graves.add(k.id, e, time.Now())
	}
}

// malformed counts a message that breaks the protocol, and ends its connection.
func (s *Server) malformed(c Conn, m *message, err error) {
	s.counters.malformed.Add(1)
	s.log.Warn("tsi: message refused", "op", uint16(m.op), "err", err)
	c.Abort()
}
