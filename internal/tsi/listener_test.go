package tsi

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (g *guest) listener(backlog uint32) (*gsock, address) {
	g.tb.Helper()
	s := g.socket(familyInet, unix.SOCK_STREAM)
	addr := s.must(opBind, 0, addressBody(inet("127.0.0.1:0"))).local
	if addr.port == 0 {
		g.tb.Fatal("bound to port 0")
	}
	if a := s.must(opListen, backlog, nil); a.flags != 0 || a.local != addr {
		g.tb.Fatalf("%+v", a)
	}
	return s, addr
}

func dial(tb testing.TB, addr address) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestListen(t *testing.T) {
	g := newGuest(t, Options{})
	s, bound := g.listener(8)
	c := dial(t, bound)
	ev := s.event(opAccept)
	if ev.peer != inet(c.LocalAddr().String()) || ev.local != bound {
		t.Errorf("announced %v, %v; want %v, %v", ev.local, ev.peer, bound, c.LocalAddr())
	}
	a := g.attach(ev.value)
	io.WriteString(c, "hello")
	c.CloseWrite()
	if got := a.readAll(); got != "hello" {
		t.Errorf("the guest has %q", got)
	}
	a.write([]byte("bye"))
	a.conn.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Errorf("the client has %q, %v", got, err)
	}
	// A listener is as usable as ever while connections come.
	if a := s.call(opGetsockopt, 4, optionBody(unix.SOL_SOCKET, unix.SO_ACCEPTCONN, nil)); len(a.data) != 4 || a.data[0] != 1 {
		t.Errorf("SO_ACCEPTCONN %+v", a)
	}
	if st := g.srv.Stats(); st.Accepted != 1 || st.Listeners != 1 {
		t.Errorf("%+v", st)
	}
	s.conn.Close()
	eventually(t, "it still listens", func() bool { return g.srv.Stats().Listeners == 0 })
	if _, err := net.Dial("tcp", bound.String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connecting after the end: %v", err)
	}
}

func TestListenUnbound(t *testing.T) {
	g := newGuest(t, Options{})
	s := g.socket(familyInet6, unix.SOCK_STREAM)
	a := s.must(opListen, 1, nil)
	if a.local.port == 0 || a.local.family != familyInet6 {
		t.Errorf("listens on %v", a.local)
	}
	// IPv4 comes as mapped addresses.
	c := dial(t, inet((&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(a.local.port)}).String()))
	ev := s.event(opAccept)
	if ev.peer.String() != "[::ffff:127.0.0.1]:"+portOf(c.LocalAddr()) {
		t.Errorf("peer %v", ev.peer)
	}
}

func portOf(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

func TestListenConflict(t *testing.T) {
	g := newGuest(t, Options{})
	_, bound := g.listener(1)
	one := []byte{1, 0, 0, 0}
	for _, c := range []struct {
		name   string
		option uint32
	}{{"none", 0}, {"SO_REUSEADDR", unix.SO_REUSEADDR}, {"SO_REUSEPORT", unix.SO_REUSEPORT}} {
		s := g.socket(familyInet, unix.SOCK_STREAM)
		if c.option != 0 {
			s.must(opSetsockopt, 0, optionBody(unix.SOL_SOCKET, c.option, one))
		}
		s.fails(unix.EADDRINUSE, opBind, 0, addressBody(bound))
	}
	// Both have to want it.
	both := func(addr address) answer {
		s := g.socket(familyInet, unix.SOCK_STREAM)
		s.must(opSetsockopt, 0, optionBody(unix.SOL_SOCKET, unix.SO_REUSEPORT, one))
		a := s.must(opBind, 0, addressBody(addr))
		s.must(opListen, 1, nil)
		return a
	}
	both(both(inet("127.0.0.1:0")).local)
}

// TestWindow: as many connections are announced as the backlog has room for, and
// the rest as these are taken.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		backlog uint32
		window  int
	}{{0, 1}, {2, 3}, {1 << 31, maxWindow}, {^uint32(0), maxWindow}, {1000, maxWindow}} {
		g := newGuest(t, Options{})
		s, bound := g.listener(c.backlog)
		more := 1
		clients := map[string]*net.TCPConn{}
		for range c.window + more {
			conn := dial(t, bound)
			clients[conn.LocalAddr().String()] = conn
		}
		var tokens []uint32
		for range c.window {
			tokens = append(tokens, s.event(opAccept).value)
		}
		s.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if a, err := s.tryRecv(); err == nil {
			t.Errorf("backlog %d: announced beyond the window: %+v", c.backlog, a)
		}
		s.conn.SetReadDeadline(time.Now().Add(patience))
		a := g.attach(tokens[0])
		ev := s.event(opAccept)
		// The others are reset with the listener, those in its backlog included.
		s.conn.Close()
		eventually(t, "it still listens", func() bool { return g.srv.Stats().Listeners == 0 })
		a.write([]byte("x")) // the attached one goes on
		resets := 0
		for _, conn := range clients {
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, unix.ECONNRESET) {
				resets++
			}
		}
		if resets != c.window+more-1 {
			t.Errorf("backlog %d: %d connections were reset, want %d", c.backlog, resets, c.window+more-1)
		}
		late := g.dial(unix.SOCK_STREAM)
		late.fails(unix.ECONNABORTED, opAttach, ev.value, nil)
		if err := late.gone(); err != nil {
			t.Error(err)
		}
	}
}

func TestWindowGrows(t *testing.T) {
	g := newGuest(t, Options{})
	s, bound := g.listener(0)
	for range 2 {
		dial(t, bound)
	}
	s.event(opAccept)
	s.send(opListen, 0, 4, nil)
	reply, event := s.recv(), s.recv()
	if reply.op == opAccept { // in either order
		reply, event = event, reply
	}
	if reply.op != opListen|opReply || reply.value != 0 || event.op != opAccept {
		t.Errorf("%+v, %+v", reply, event)
	}
}

func TestAttachOnce(t *testing.T) {
	g := newGuest(t, Options{})
	s, bound := g.listener(1)
	c := dial(t, bound)
	token := s.event(opAccept).value
	a := g.attach(token)
	g.dial(unix.SOCK_STREAM).fails(unix.ECONNABORTED, opAttach, token, nil)
	g.dial(unix.SOCK_STREAM).fails(unix.ECONNABORTED, opAttach, 0, nil)
	io.WriteString(c, "still there")
	c.CloseWrite()
	if got := a.readAll(); got != "still there" {
		t.Errorf("the guest has %q", got)
	}
}

// TestAcceptedAndGone: a connection that its peer has reset before it was
// attached is there, and broken.
func TestAcceptedAndGone(t *testing.T) {
	g := newGuest(t, Options{})
	s, bound := g.listener(1)
	c := dial(t, bound)
	token := s.event(opAccept).value
	reset(c)
	a := g.dial(unix.SOCK_STREAM)
	a.must(opAttach, token, nil)
	if err := a.gone(); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the guest has %v", err)
	}
	eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) <= 2 })
	if e := g.soError(a.id); e != unix.ECONNRESET {
		t.Errorf("SO_ERROR is %v", e)
	}
}

// TestListenerOnHost: loopback of the host's own namespace is kept inside the
// guest.
func TestListenerOnHost(t *testing.T) {
	g := newGuest(t, Options{Policy: &Policy{HostNamespace: true}})
	s := g.socket(familyInet, unix.SOCK_STREAM)
	if a := s.must(opBind, 0, addressBody(inet("127.0.0.1:8080"))); a.flags != flagLocal || a.local.family != familyNone && a.local.port != 0 {
		t.Errorf("bind: %+v", a)
	}
	if a := s.must(opListen, 1, nil); a.flags != flagLocal {
		t.Errorf("listen: %+v", a)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:8080"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the host's loopback has it: %v", err)
	}
	s.fails(unix.EINVAL, opConnect, 0, addressBody(inet("192.0.2.1:80")))
	// Other addresses are the namespace's, which has loopback only here.
	s = g.socket(familyInet, unix.SOCK_STREAM)
	if a := s.must(opBind, 0, addressBody(inet("0.0.0.0:0"))); a.flags != 0 || a.local.port == 0 {
		t.Errorf("bind: %+v", a)
	}
}

// TestAcceptInherits: options of a listener are those of what it accepts.
func TestAcceptInherits(t *testing.T) {
	g := newGuest(t, Options{})
	s, bound := g.listener(1)
	s.must(opSetsockopt, 0, optionBody(unix.SOL_SOCKET, unix.SO_LINGER, []byte{1, 0, 0, 0, 0, 0, 0, 0}))
	s.must(opSetsockopt, 0, optionBody(unix.SOL_TCP, unix.TCP_NODELAY, []byte{1, 0, 0, 0}))
	c := dial(t, bound)
	a := g.attach(s.event(opAccept).value)
	if g.control().ask(a.id, unix.SOL_TCP, unix.TCP_NODELAY) != 1 {
		t.Error("TCP_NODELAY is not inherited")
	}
	a.conn.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("SO_LINGER is not inherited: %v", err)
	}
}
