package tsi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/vsock"
	"runv.dev/runv/virtio/vsock/vsocktest"
)

const patience = 20 * time.Second

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// guest is the guest's half of the protocol over a real pair of vsock devices.
type guest struct {
	tb        testing.TB
	srv       *Server
	host, dev *vsock.Device
	ids       atomic.Uint32
	ctl       *control
}

func newGuest(tb testing.TB, o Options) *guest {
	return newGuestWith(tb, o, 0)
}

// newGuestWith is newGuest with receive buffers of rx bytes.
func newGuestWith(tb testing.TB, o Options, rx int) *guest {
	tb.Helper()
	checkLeaks(tb)
	device := vsock.Options{MaxConns: 8192, MaxBuffer: 1 << 30}
	host, dev := vsocktest.Pair(tb, device, device, rx)
	if o.Log == nil {
		o.Log = quiet
	}
	g := &guest{tb: tb, srv: New(o), host: host, dev: dev}
	streams, err := host.Listen(Port)
	if err != nil {
		tb.Fatal(err)
	}
	packets, err := host.ListenSeqpacket(Port)
	if err != nil {
		tb.Fatal(err)
	}
	g.srv.Serve(streams, packets)
	tb.Cleanup(func() {
		if err := g.srv.Close(); err != nil {
			tb.Error(err)
		}
		if s := g.srv.Stats(); s.Connections != 0 || s.Listeners != 0 || s.Datagrams != 0 {
			tb.Errorf("open after the end: %+v", s)
		}
		g.srv.mu.Lock()
		defer g.srv.mu.Unlock()
		if g.srv.reserved != 0 || g.srv.datagrams != 0 || len(g.srv.sockets) != 0 || len(g.srv.tokens) != 0 || len(g.srv.conns) != 0 {
			tb.Errorf("left: %d reserved, %d datagrams, %d sockets, %d tokens, %d connections", g.srv.reserved,
				g.srv.datagrams, len(g.srv.sockets), len(g.srv.tokens), len(g.srv.conns))
		}
	})
	return g
}

// checkLeaks makes sure that the test leaves as many descriptors and goroutines
// as it found.
func checkLeaks(tb testing.TB) {
	tb.Helper()
	// The poller's own descriptors come with the first pipe.
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	r.Close()
	w.Close()
	fds, goroutines := openFDs(tb), runtime.NumGoroutine()
	tb.Cleanup(func() {
		eventually(tb, "descriptors or goroutines are left", func() bool {
			return openFDs(tb) <= fds && runtime.NumGoroutine() <= goroutines
		})
	})
}

func openFDs(tb testing.TB) int {
	tb.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(list)
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatal(what)
		}
	}
}

// gsock is a socket of the guest.
type gsock struct {
	tb   testing.TB
	conn *vsock.Conn
	id   uint32
	typ  uint16
}

func (g *guest) dial(typ uint16) *gsock {
	g.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dial := g.dev.Dial
	if typ == unix.SOCK_DGRAM {
		dial = g.dev.DialSeqpacket
	}
	c, err := dial(ctx, Port)
	if err != nil {
		g.tb.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	s := &gsock{tb: g.tb, conn: c, id: g.ids.Add(1), typ: typ}
	g.tb.Cleanup(func() { c.Close() })
	return s
}

// socket opens a connection and has it stand for a socket.
func (g *guest) socket(family, typ uint16) *gsock {
	g.tb.Helper()
	proto := uint32(unix.IPPROTO_TCP)
	if typ == unix.SOCK_DGRAM {
		proto = unix.IPPROTO_UDP
	}
	s := g.dial(typ)
	s.send(opSocket, flagNoReply, proto, socketBody(family, typ))
	return s
}

func socketBody(family, typ uint16) []byte {
	var b [8]byte
	binary.LittleEndian.PutUint16(b[:], family)
	binary.LittleEndian.PutUint16(b[2:], typ)
	return b[:]
}

func addressBody(a address) []byte { return appendAddress(nil, &a) }

func optionBody(level, name uint32, value []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, level)
	return append(binary.LittleEndian.AppendUint32(b, name), value...)
}

// inet has an address such as 127.0.0.1:80.
func inet(s string) address {
	p := netip.MustParseAddrPort(s)
	a := address{family: familyInet6, port: p.Port()}
	if p.Addr().Is4() {
		a.family = familyInet
		b := p.Addr().As4()
		copy(a.ip[:], b[:])
	} else {
		a.ip = p.Addr().As16()
	}
	return a
}

func frame(o op, flags uint16, id, value uint32, body []byte) []byte {
	return append(appendHeader(nil, headerSize+len(body), o, flags, id, value), body...)
}

func (s *gsock) send(o op, flags uint16, value uint32, body []byte) {
	s.tb.Helper()
	s.write(frame(o, flags, s.id, value, body))
}

func (s *gsock) write(b []byte) {
	s.tb.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.tb.Fatal(err)
	}
}

// answer is a message of the VMM.
type answer struct {
	op          op
	flags       uint16
	id, value   uint32
	local, peer address
	tos, ttl    uint32
	data        []byte
}

// recv reads a message.
func (s *gsock) recv() answer {
	s.tb.Helper()
	a, err := s.tryRecv()
	if err != nil {
		s.tb.Fatalf("no message: %v", err)
	}
	return a
}

func (s *gsock) tryRecv() (answer, error) {
	le := binary.LittleEndian
	var b []byte
	if s.typ == unix.SOCK_DGRAM {
		b = make([]byte, maxMessage)
		n, _, err := s.conn.ReadMessage(b)
		if err != nil {
			return answer{}, err
		}
		b = b[:n]
	} else {
		b = make([]byte, headerSize)
		if _, err := io.ReadFull(s.conn, b); err != nil {
			return answer{}, err
		}
		b = append(b, make([]byte, le.Uint32(b)-headerSize)...)
		if _, err := io.ReadFull(s.conn, b[headerSize:]); err != nil {
			return answer{}, err
		}
	}
	if len(b) < headerSize+2*addressSize || int(le.Uint32(b)) != len(b) {
		return answer{}, errors.New("bad message from the VMM")
	}
	a := answer{op: op(le.Uint16(b[4:])), flags: le.Uint16(b[6:]), id: le.Uint32(b[8:]), value: le.Uint32(b[12:])}
	var err1, err2 error
	a.local, err1 = parseAddress(b[headerSize:])
	a.peer, err2 = parseAddress(b[headerSize+addressSize:])
	a.data = b[headerSize+2*addressSize:]
	if a.op == opData { // remote first
		a.local, a.peer = a.peer, a.local
		a.tos, a.ttl, a.data = le.Uint32(a.data), le.Uint32(a.data[4:]), a.data[8:]
	}
	return a, errors.Join(err1, err2)
}

// call sends a request and has the reply.
func (s *gsock) call(o op, value uint32, body []byte) answer {
	s.tb.Helper()
	s.send(o, 0, value, body)
	a := s.recv()
	if a.op != o|opReply || a.id != s.id {
		s.tb.Fatalf("reply %+v to %d of %d", a, o, s.id)
	}
	return a
}

// must is call for a request that succeeds.
func (s *gsock) must(o op, value uint32, body []byte) answer {
	s.tb.Helper()
	a := s.call(o, value, body)
	if a.value != 0 {
		s.tb.Fatalf("op %d: %v", o, unix.Errno(a.value))
	}
	return a
}

// fails is call for a request that fails.
func (s *gsock) fails(want unix.Errno, o op, value uint32, body []byte) {
	s.tb.Helper()
	if a := s.call(o, value, body); unix.Errno(a.value) != want {
		s.tb.Fatalf("op %d: %v, want %v", o, unix.Errno(a.value), want)
	}
}

// event reads an event.
func (s *gsock) event(o op) answer {
	s.tb.Helper()
	a := s.recv()
	if a.op != o || a.id != s.id {
		s.tb.Fatalf("got %+v, want event %#x of %d", a, o, s.id)
	}
	return a
}

// attach takes an announced connection.
func (g *guest) attach(token uint32) *gsock {
	g.tb.Helper()
	s := g.dial(unix.SOCK_STREAM)
	s.must(opAttach, token, nil)
	return s
}

// gone reads until the connection is over and has the error.
func (s *gsock) gone() error {
	s.tb.Helper()
	_, err := io.Copy(io.Discard, struct{ io.Reader }{s.conn})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.tb.Fatal("the connection goes on")
	}
	return err
}

func (s *gsock) readAll() string {
	s.tb.Helper()
	b, err := io.ReadAll(s.conn)
	if err != nil {
		s.tb.Fatal(err)
	}
	return string(b)
}

// tcpServer listens on loopback.
func tcpServer(tb testing.TB) (net.Listener, address) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l, inet(l.Addr().String())
}

func tcpAccept(tb testing.TB, l net.Listener) *net.TCPConn {
	tb.Helper()
	c, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// connect connects a new TCP socket to a new server.
func (g *guest) connect() (*gsock, *net.TCPConn) {
	g.tb.Helper()
	l, addr := tcpServer(g.tb)
	s := g.socket(familyInet, unix.SOCK_STREAM)
	s.must(opConnect, 0, addressBody(addr))
	return s, tcpAccept(g.tb, l)
}
