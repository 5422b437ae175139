package tsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnect(t *testing.T) {
	g := newGuest(t, Options{})
	l, addr := tcpServer(t)
	s := g.socket(familyInet, unix.SOCK_STREAM)
	a := s.must(opConnect, 0, addressBody(addr))
	c := tcpAccept(t, l)
	if a.peer != addr || a.local != inet(c.RemoteAddr().String()) {
		t.Errorf("addresses %v, %v; want %v, %v", a.local, a.peer, c.RemoteAddr(), addr)
	}
	if st := g.srv.Stats(); st.Connections != 1 || st.Connected != 1 {
		t.Errorf("%+v", st)
	}
	s.write([]byte("to the server"))
	if err := s.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "to the server" {
		t.Fatalf("the server has %q, %v", got, err)
	}
	io.WriteString(c, "to the guest")
	c.CloseWrite()
	if got := s.readAll(); got != "to the guest" {
		t.Errorf("the guest has %q", got)
	}
	// Both directions have ended, and the socket is there until it is closed.
	if ctl := g.control(); ctl.ask(s.id, unix.SOL_SOCKET, unix.SO_TYPE) != unix.SOCK_STREAM {
		t.Error("the socket is gone")
	}
	s.conn.Close()
	eventually(t, "the connection goes on", func() bool { return g.srv.Stats().Connections == 0 })
	if st := g.srv.Stats(); st.BytesSent != 13 || st.BytesReceived != 12 || st.Malformed != 0 {
		t.Errorf("%+v", st)
	}
}

// fullServer has the address of a server that takes no connection.
func fullServer(t *testing.T) address {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	addr := localAddress(fd)
	for range 2 {
		c, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return addr
}

func closedPort(t *testing.T) address {
	t.Helper()
	l, addr := tcpServer(t)
	l.Close()
	return addr
}

func TestConnectErrors(t *testing.T) {
	_, inUse := tcpServer(t)
	low := inet("127.0.0.1:80")
	for _, c := range []struct {
		name   string
		family uint16
		op     op
		addr   address
		want   unix.Errno
	}{
		{"nobody listens", familyInet, opConnect, closedPort(t), unix.ECONNREFUSED},
		{"no route", familyInet, opConnect, inet("192.0.2.1:80"), unix.ENETUNREACH},
		{"no route for IPv6", familyInet6, opConnect, inet("[2001:db8::1]:80"), unix.ENETUNREACH},
		{"broadcast", familyInet, opConnect, inet("255.255.255.255:80"), unix.ENETUNREACH},
		{"other family", familyInet, opConnect, inet("[::1]:80"), unix.EAFNOSUPPORT},
		{"no address", familyInet, opConnect, address{}, unix.EAFNOSUPPORT},
		{"address in use", familyInet, opBind, inUse, unix.EADDRINUSE},
		{"privileged port", familyInet, opBind, low, unix.EACCES},
		{"not ours", familyInet, opBind, inet("192.0.2.1:8080"), unix.EADDRNOTAVAIL},
		{"not ours over IPv6", familyInet6, opBind, inet("[2001:db8::1]:8080"), unix.EADDRNOTAVAIL},
		{"bind, other family", familyInet6, opBind, inet("127.0.0.1:0"), unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, Options{})
			s := g.socket(c.family, unix.SOCK_STREAM)
			s.fails(c.want, c.op, 0, addressBody(c.addr))
			// The socket is as good as before.
			l, addr := tcpServer(t)
			if c.family == familyInet6 {
				s.must(opBind, 0, addressBody(inet("[::]:0")))
				return
			}
			s.must(opConnect, 0, addressBody(addr))
			tcpAccept(t, l)
		})
	}
}

func TestConnectTimesOut(t *testing.T) {
	g := newGuest(t, Options{})
	s := g.socket(familyInet, unix.SOCK_STREAM)
	s.must(opSetsockopt, 0, optionBody(unix.SOL_TCP, unix.TCP_SYNCNT, []byte{1, 0, 0, 0}))
	s.fails(unix.EINPROGRESS, opConnect, 0, addressBody(fullServer(t)))
	if a := s.recv(); a.op != opConnect|opReply || a.id != s.id || unix.Errno(a.value) != unix.ETIMEDOUT {
		t.Errorf("%+v", a)
	}
	if st := g.srv.Stats(); st.Failed != 1 {
		t.Errorf("%+v", st)
	}
}

func TestConnectCancelled(t *testing.T) {
	for name, end := range map[string]func(s *gsock){
		"closed":      func(s *gsock) { s.conn.Close() },
		"reset":       func(s *gsock) { s.conn.Abort() },
		"half closed": func(s *gsock) { s.conn.CloseWrite() },
		"early data":  func(s *gsock) { s.write([]byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, Options{})
			s := g.socket(familyInet, unix.SOCK_STREAM)
			s.send(opConnect, 0, 0, addressBody(fullServer(t)))
			eventually(t, "no socket", func() bool { return openSockets(g.srv) == 1 })
			end(s)
			eventually(t, "it still connects", func() bool { return openSockets(g.srv) == 0 })
		})
	}
}

func openSockets(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reserved
}

func TestSticky(t *testing.T) {
	g := newGuest(t, Options{})
	_, addr := tcpServer(t)
	// All in one go, of which the first failure is told.
	s := g.dial(unix.SOCK_STREAM)
	s.send(opSocket, flagNoReply, unix.IPPROTO_SCTP, socketBody(familyInet, unix.SOCK_STREAM))
	s.send(opSetsockopt, flagNoReply, 0, optionBody(unix.SOL_SOCKET, unix.SO_REUSEADDR, []byte{1, 0, 0, 0}))
	s.fails(unix.EPROTONOSUPPORT, opConnect, 0, addressBody(addr))
	s.fails(unix.EBADF, opConnect, 0, addressBody(addr))
	s.fails(unix.EBADF, opListen, 1, nil)

	s = g.socket(familyInet, unix.SOCK_STREAM)
	s.send(opSetsockopt, flagNoReply, 0, optionBody(unix.SOL_SOCKET, unix.SO_MARK, []byte{1, 0, 0, 0}))
	s.send(opBind, flagNoReply, 0, addressBody(inet("192.0.2.1:1")))
	s.fails(unix.ENOPROTOOPT, opConnect, 0, addressBody(addr))
	s.must(opConnect, 0, addressBody(addr))
}

// big is more than all buffers on the way hold.
func big() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 1<<20) }

func TestSlowPeer(t *testing.T) {
	g := newGuest(t, Options{})
	slow, c := g.connect()
	want := big()
	wrote := make(chan error, 1)
	go func() {
		_, err := slow.conn.Write(want)
		slow.conn.Close()
		wrote <- err
	}()
	// It holds nobody up.
	for range 10 {
		s, c := g.connect()
		s.write([]byte("hello"))
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("hello"))
		if _, err := io.ReadFull(s.conn, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-wrote:
		t.Fatalf("nobody has read, and all is written: %v", err)
	default:
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the peer has %d bytes, %v", len(got), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestSlowGuest(t *testing.T) {
	g := newGuest(t, Options{})
	slow, c := g.connect()
	want := big()
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		c.Close()
		wrote <- err
	}()
	for range 10 {
		s, c := g.connect()
		c.Write([]byte("hello"))
		if _, err := io.ReadFull(s.conn, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-wrote:
		t.Fatalf("the guest has not read, and all is written: %v", err)
	default:
	}
	if got := slow.readAll(); got != string(want) {
		t.Errorf("the guest has %d bytes", len(got))
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestDrainTimeout(t *testing.T) {
	g := newGuest(t, Options{DrainTimeout: 50 * time.Millisecond})
	s, c := g.connect()
	s.conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	s.conn.Write(big())
	s.conn.Close()
	eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 0 })
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer has %v", err)
	}
}

func TestHalfClose(t *testing.T) {
	t.Run("guest first", func(t *testing.T) {
		g := newGuest(t, Options{})
		s, peer := g.connect()
		s.write([]byte("question"))
		s.conn.CloseWrite()
		if got, err := io.ReadAll(peer); err != nil || string(got) != "question" {
			t.Fatalf("the peer has %q, %v", got, err)
		}
		want := big()
		go func() { peer.Write(want); peer.Close() }()
		if got := s.readAll(); got != string(want) {
			t.Errorf("the guest has %d bytes", len(got))
		}
	})
	t.Run("peer first", func(t *testing.T) {
		g := newGuest(t, Options{})
		s, peer := g.connect()
		peer.Write([]byte("question"))
		peer.CloseWrite()
		if got := s.readAll(); got != "question" {
			t.Fatalf("the guest has %q", got)
		}
		want := big()
		go func() { s.conn.Write(want); s.conn.Close() }()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the peer has %d bytes, %v", len(got), err)
		}
	})
	t.Run("guest reads no more", func(t *testing.T) {
		g := newGuest(t, Options{})
		s, peer := g.connect()
		s.conn.CloseRead()
		peer.Write([]byte("nobody reads this"))
		s.write([]byte("still here"))
		got := make([]byte, 10)
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != "still here" {
			t.Errorf("the peer has %q, %v", got, err)
		}
	})
}

func TestManyConnections(t *testing.T) {
	const n = 2000
	g := newGuest(t, Options{})
	l, addr := tcpServer(t)
	accepted := make(chan net.Conn, n)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	defer func() {
		l.Close()
		for c := range accepted {
			c.Close()
		}
	}()
	var all []*gsock
	for range n {
		s := g.socket(familyInet, unix.SOCK_STREAM)
		s.must(opConnect, 0, addressBody(addr))
		all = append(all, s)
	}
	if st := g.srv.Stats(); st.Connections != n {
		t.Errorf("%+v", st)
	}
	for _, s := range all {
		s.conn.Close()
	}
	eventually(t, "connections are left", func() bool { return g.srv.Stats().Connections == 0 })
}

func TestLimits(t *testing.T) {
	g := newGuest(t, Options{MaxSockets: 3, MaxDatagram: 1})
	bindAny := addressBody(inet("127.0.0.1:0"))
	u := g.socket(familyInet, unix.SOCK_DGRAM)
	u.must(opBind, 0, bindAny)
	g.socket(familyInet, unix.SOCK_DGRAM).fails(unix.ENFILE, opBind, 0, bindAny)
	s := g.socket(familyInet, unix.SOCK_STREAM)
	s.must(opBind, 0, bindAny)
	g.socket(familyInet, unix.SOCK_STREAM).must(opBind, 0, bindAny)
	g.socket(familyInet, unix.SOCK_STREAM).fails(unix.ENFILE, opBind, 0, bindAny)
	s.conn.Close()
	eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 2 })
	g.socket(familyInet, unix.SOCK_STREAM).must(opBind, 0, bindAny)
	if st := g.srv.Stats(); st.Exhausted != 2 {
		t.Errorf("%+v", st)
	}
}

// TestCloseServer ends with everything open; newGuest looks for leaks.
func TestCloseServer(t *testing.T) {
	g := newGuest(t, Options{})
	g.connect()
	busy, _ := g.connect()
	busy.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	busy.conn.Write(big())
	s := g.socket(familyInet, unix.SOCK_STREAM)
	s.send(opConnect, 0, 0, addressBody(fullServer(t)))
	l := g.socket(familyInet, unix.SOCK_STREAM)
	addr := l.must(opBind, 0, addressBody(inet("127.0.0.1:0"))).local
	l.must(opListen, 1, nil)
	for range 3 {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	l.event(opAccept)
	g.socket(familyInet, unix.SOCK_DGRAM).must(opBind, 0, addressBody(inet("127.0.0.1:0")))
	g.control()
	g.dial(unix.SOCK_STREAM)
	g.dial(unix.SOCK_DGRAM)
}

// control is the guest's control connection.
type control struct{ *gsock }

func (g *guest) control() *control {
	g.tb.Helper()
	if g.ctl == nil {
		g.ctl = &control{g.dial(unix.SOCK_STREAM)}
		g.ctl.must(opControl, version, nil)
	}
	return g.ctl
}

func (c *control) send(o op, id uint32, flags uint16, body []byte) {
	c.tb.Helper()
	c.write(frame(o, flags, id, 0, body))
}

func (c *control) call(o op, id, value uint32, body []byte) answer {
	c.tb.Helper()
	c.write(frame(o, 0, id, value, body))
	a := c.recv()
	if a.op != o|opReply || a.id != id {
		c.tb.Fatalf("reply %+v", a)
	}
	return a
}

// ask gets an option that is a number.
func (c *control) ask(id, level, name uint32) uint32 {
	c.tb.Helper()
	a := c.call(opGetsockopt, id, 4, optionBody(level, name, nil))
	if a.value != 0 || len(a.data) != 4 {
		c.tb.Fatalf("option %d, %d of %d: %v, %x", level, name, id, unix.Errno(a.value), a.data)
	}
	return binary.LittleEndian.Uint32(a.data)
}
