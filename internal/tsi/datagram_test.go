package tsi

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dataBody(remote, local address, tos, ttl uint32, payload []byte) []byte {
	b := appendDataHead(nil, 0, &remote, &local, tos, ttl, len(payload))
	return append(b[headerSize:], payload...)
}

// to sends a datagram.
func (s *gsock) to(remote address, payload string) {
	s.tb.Helper()
	s.send(opData, 0, 0, dataBody(remote, address{}, notGiven, notGiven, []byte(payload)))
}

// datagram reads a datagram.
func (s *gsock) datagram() answer {
	s.tb.Helper()
	a := s.recv()
	if a.op != opData || a.id != s.id || a.value != 0 || a.flags != 0 {
		s.tb.Fatalf("got %+v, want a datagram", a)
	}
	return a
}

func udpServer(tb testing.TB, at string) (*net.UDPConn, address) {
	tb.Helper()
	a, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		tb.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return c, inet(c.LocalAddr().String())
}

func readUDP(tb testing.TB, c *net.UDPConn) (string, *net.UDPAddr) {
	tb.Helper()
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDP(b)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b[:n]), from
}

func TestDatagram(t *testing.T) {
	for _, c := range []struct {
		family uint16
		at     string
	}{{familyInet, "127.0.0.1:0"}, {familyInet6, "[::1]:0"}} {
		g := newGuest(t, Options{})
		server, addr := udpServer(t, c.at)
		s := g.socket(c.family, unix.SOCK_DGRAM)
		s.to(addr, "ping")
		got, from := readUDP(t, server)
		if got != "ping" {
			t.Fatalf("the server has %q", got)
		}
		if _, err := server.WriteToUDP([]byte("pong"), from); err != nil {
			t.Fatal(err)
		}
		a := s.datagram()
		a.local.scope = 0 // the interface
		if string(a.data) != "pong" || a.peer != addr || a.local != inet(from.String()) || a.tos != 0 || a.ttl != 64 {
			t.Errorf("the guest has %+v", a)
		}
		// Nothing is a datagram, too.
		s.to(addr, "")
		if got, _ := readUDP(t, server); got != "" {
			t.Errorf("the server has %q", got)
		}
		server.WriteToUDP(nil, from)
		if a := s.datagram(); len(a.data) != 0 {
			t.Errorf("the guest has %+v", a)
		}
		s.conn.Close()
		eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 0 })
		if st := g.srv.Stats(); st.DatagramsSent != 2 || st.DatagramsReceived != 2 || st.BytesSent != 4 || st.BytesReceived != 4 {
			t.Errorf("%+v", st)
		}
	}
}

func TestDatagramServer(t *testing.T) {
	g := newGuest(t, Options{})
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	bound := s.must(opBind, 0, addressBody(inet("0.0.0.0:0"))).local
	var clients []*net.UDPConn
	for i := range 3 {
		c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(i+1)), Port: int(bound.port)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.Write([]byte{byte(i)})
		clients = append(clients, c)
	}
	for range clients {
		a := s.datagram()
		i := a.data[0]
		if a.local != inet(clients[i].RemoteAddr().String()) {
			t.Errorf("to %v, want %v", a.local, clients[i].RemoteAddr())
		}
		// An answer from the address it was sent to, which the client wants.
		local := a.local
		local.port = 0
		s.send(opData, 0, 0, dataBody(a.peer, local, 0x20, 7, a.data))
	}
	for i, c := range clients {
		if got, _ := readUDP(t, c); got != string([]byte{byte(i)}) {
			t.Errorf("client %d has %q", i, got)
		}
	}
}

func TestDatagramOptions(t *testing.T) {
	for _, c := range []struct{ server, client, name uint16 }{{familyInet, familyInet, 0}, {familyInet6, familyInet6, 0}, {familyInet6, familyInet, 0}, {familyInet, familyInet6, 0}} {
		g := newGuest(t, Options{})
		at := map[uint16]string{familyInet: "127.0.0.1:0", familyInet6: "[::]:0"}[c.server]
		s := g.socket(c.server, unix.SOCK_DGRAM)
		bound := s.must(opBind, 0, addressBody(inet(at))).local
		to := inet("127.0.0.1:1")
		if c.client == familyInet6 && c.server == familyInet6 {
			to = inet("[::1]:1")
		} else if c.client == familyInet6 {
			to = inet("[::ffff:127.0.0.1]:1")
		}
		to.port = bound.port
		client := g.socket(c.client, unix.SOCK_DGRAM)
		client.send(opData, 0, 0, dataBody(to, address{}, 0x28, 9, []byte("x")))
		a := s.datagram()
		if a.tos != 0x28 || a.ttl != 9 {
			t.Errorf("%d to %d: type of service %#x, time to live %d", c.client, c.server, a.tos, a.ttl)
		}
	}
}

func TestConnectedDatagram(t *testing.T) {
	g := newGuest(t, Options{})
	server, addr := udpServer(t, "127.0.0.1:0")
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	a := s.must(opConnect, 0, addressBody(addr))
	if a.peer != addr || a.local.port == 0 {
		t.Errorf("%+v", a)
	}
	s.to(address{}, "hello")
	if got, from := readUDP(t, server); got != "hello" || inet(from.String()) != a.local {
		t.Errorf("the server has %q from %v", got, from)
	}
	// Others are not heard.
	other, _ := udpServer(t, "127.0.0.1:0")
	other.WriteToUDP([]byte("spam"), net.UDPAddrFromAddrPort(server.LocalAddr().(*net.UDPAddr).AddrPort()))
	other.WriteToUDP([]byte("spam"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(a.local.port)})
	server.WriteToUDP([]byte("answer"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(a.local.port)})
	if a := s.datagram(); string(a.data) != "answer" {
		t.Errorf("the guest has %q", a.data)
	}
	// Disconnected, it hears them again.
	if a := s.must(opConnect, 0, addressBody(address{})); a.peer.family != familyNone {
		t.Errorf("%+v", a)
	}
	s.to(address{}, "where to?")
	if ev := s.event(opError); unix.Errno(ev.value) != unix.EDESTADDRREQ {
		t.Errorf("%+v", ev)
	}
}

func TestDatagramRefused(t *testing.T) {
	g := newGuest(t, Options{})
	server, addr := udpServer(t, "127.0.0.1:0")
	server.Close()
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	s.must(opConnect, 0, addressBody(addr))
	s.to(address{}, "anyone?")
	if ev := s.event(opError); unix.Errno(ev.value) != unix.ECONNREFUSED {
		t.Errorf("%+v", ev)
	}
	// It goes on, and a datagram is not lost for the error of another one.
	server, _ = udpServer(t, addr.String())
	s.to(address{}, "now?")
	if got, _ := readUDP(t, server); got != "now?" {
		t.Errorf("the server has %q", got)
	}
	// Without IP_RECVERR an unconnected socket hears of nothing, with it of all.
	silent := g.socket(familyInet, unix.SOCK_DGRAM)
	gone := closedUDP(t)
	silent.to(gone, "anyone?")
	silent.to(inet(server.LocalAddr().String()), "you")
	readUDP(t, server)
	if a := silent.call(opGetsockopt, 4, optionBody(unix.SOL_SOCKET, unix.SO_ERROR, nil)); binary.LittleEndian.Uint32(a.data) != 0 {
		t.Errorf("%+v", a)
	}
	loud := g.socket(familyInet, unix.SOCK_DGRAM)
	loud.must(opSetsockopt, 0, optionBody(unix.SOL_IP, unix.IP_RECVERR, []byte{1, 0, 0, 0}))
	loud.to(gone, "anyone?")
	if ev := loud.event(opError); unix.Errno(ev.value) != unix.ECONNREFUSED || ev.peer != gone || ev.flags != 0x0303 {
		t.Errorf("%+v", ev)
	}
	loud.to(inet("192.0.2.1:9"), "no route")
	if ev := loud.event(opError); unix.Errno(ev.value) != unix.ENETUNREACH || ev.flags != 0 {
		t.Errorf("%+v", ev)
	}
}

func closedUDP(t *testing.T) address {
	t.Helper()
	c, addr := udpServer(t, "127.0.0.1:0")
	c.Close()
	return addr
}

func TestDatagramErrors(t *testing.T) {
	g := newGuest(t, Options{})
	for _, c := range []struct {
		name string
		to   string
		size int
		want unix.Errno
	}{
		{"no route", "192.0.2.1:9", 1, unix.ENETUNREACH},
		{"broadcast", "127.255.255.255:9", 1, unix.EACCES},
		{"too long", "127.0.0.1:9", 65508, unix.EMSGSIZE},
		{"port 0", "127.0.0.1:0", 1, unix.EINVAL},
	} {
		s := g.socket(familyInet, unix.SOCK_DGRAM)
		s.to(inet(c.to), string(make([]byte, c.size)))
		if ev := s.event(opError); unix.Errno(ev.value) != c.want || ev.peer != inet(c.to) {
			t.Errorf("%s: %+v, want %v", c.name, ev, c.want)
		}
	}
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	s.fails(unix.EADDRNOTAVAIL, opBind, 0, addressBody(inet("192.0.2.1:99")))
	s.fails(unix.EACCES, opBind, 0, addressBody(inet("127.0.0.1:53")))
	s.fails(unix.EOPNOTSUPP, opListen, 1, nil)
	s.fails(unix.ENOTCONN, opShutdown, unix.SHUT_RDWR, nil)
	s.fails(unix.ENETUNREACH, opConnect, 0, addressBody(inet("192.0.2.1:99")))
	s.fails(unix.EINVAL, opBind, 0, addressBody(inet("127.0.0.1:0"))) // connect(2) has bound it
	s = g.socket(familyInet, unix.SOCK_DGRAM)
	bound := s.must(opBind, 0, addressBody(inet("127.0.0.1:0"))).local
	g.socket(familyInet, unix.SOCK_DGRAM).fails(unix.EADDRINUSE, opBind, 0, addressBody(bound))
}

func TestLargeDatagrams(t *testing.T) {
	g := newGuest(t, Options{})
	server, addr := udpServer(t, "127.0.0.1:0")
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	for _, n := range []int{1, 1472, 2048, 9000, 65507} {
		want := string(bytes.Repeat([]byte{byte(n)}, n))
		s.to(addr, want)
		got, from := readUDP(t, server)
		if got != want {
			t.Errorf("the server has %d bytes, want %d", len(got), n)
		}
		server.WriteToUDP([]byte(want), from)
		if a := s.datagram(); string(a.data) != want {
			t.Errorf("the guest has %d bytes, want %d", len(a.data), n)
		}
	}
	six := g.socket(familyInet6, unix.SOCK_DGRAM)
	server, addr = udpServer(t, "[::1]:0")
	six.to(addr, string(make([]byte, maxPayload)))
	if got, _ := readUDP(t, server); len(got) != maxPayload {
		t.Errorf("the server has %d bytes over IPv6", len(got))
	}
}

// TestDatagramFlood: a guest that takes nothing loses datagrams, and holds
// nobody up.
func TestDatagramFlood(t *testing.T) {
	g := newGuest(t, Options{})
	server, addr := udpServer(t, "127.0.0.1:0")
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	s.to(addr, "hello")
	_, from := readUDP(t, server)
	const n = 2000
	for i := range n {
		b := make([]byte, 1400)
		binary.LittleEndian.PutUint32(b, uint32(i))
		server.WriteToUDP(b, from)
	}
	other := g.socket(familyInet, unix.SOCK_DGRAM)
	other.to(addr, "hello")
	_, from = readUDP(t, server)
	server.WriteToUDP([]byte("hello"), from)
	other.datagram()
	last, got := -1, 0
	for {
		s.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		a, err := s.tryRecv()
		if err != nil {
			break
		}
		i := int(binary.LittleEndian.Uint32(a.data))
		if i <= last {
			t.Fatalf("datagram %d after %d", i, last)
		}
		last, got = i, got+1
	}
	if got == 0 || got == n {
		t.Errorf("%d of %d datagrams arrived", got, n)
	}
}

func TestPing(t *testing.T) {
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("1 0"), 0); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{})
	bindAny := addressBody(address{family: familyInet})
	forbidden := g.dial(unix.SOCK_DGRAM)
	forbidden.send(opSocket, flagNoReply, unix.IPPROTO_ICMP, socketBody(familyInet, unix.SOCK_DGRAM))
	forbidden.fails(unix.EACCES, opBind, 0, bindAny)
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		family         uint16
		protocol       uint32
		to             string
		request, reply byte
	}{
		{familyInet, unix.IPPROTO_ICMP, "127.0.0.1:0", 8, 0},
		{familyInet6, unix.IPPROTO_ICMPV6, "[::1]:0", 128, 129},
	} {
		s := g.dial(unix.SOCK_DGRAM)
		s.send(opSocket, flagNoReply, c.protocol, socketBody(c.family, unix.SOCK_DGRAM))
		s.to(inet(c.to), string([]byte{c.request, 0, 0, 0, 0, 0, 0, 7, 'h', 'i'}))
		a := s.datagram()
		if len(a.data) != 10 || a.data[0] != c.reply || a.data[7] != 7 || string(a.data[8:]) != "hi" {
			t.Fatalf("%+v", a)
		}
		if id := binary.BigEndian.Uint16(a.data[4:]); id != a.local.port {
			t.Errorf("identifier %d, local port %d", id, a.local.port)
		}
	}
}

func TestDatagramPolicy(t *testing.T) {
	g := newGuest(t, Options{Policy: &Policy{HostNamespace: true}})
	server, addr := udpServer(t, "127.0.0.1:0")
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	bound := s.must(opBind, 0, addressBody(inet("0.0.0.0:0"))).local
	s.to(addr, "confused deputy")
	s.to(inet("169.254.169.254:80"), "credentials, please")
	if ev := s.event(opError); unix.Errno(ev.value) != unix.EPERM || ev.peer != inet("169.254.169.254:80") {
		t.Errorf("%+v", ev)
	}
	s.fails(unix.ECONNREFUSED, opConnect, 0, addressBody(addr))
	s.fails(unix.EPERM, opConnect, 0, addressBody(inet("169.254.169.254:80")))
	if st := g.srv.Stats(); st.Refused != 4 || st.DatagramsSent != 0 {
		t.Errorf("%+v", st)
	}
	// It may answer who asks.
	server.WriteToUDP([]byte("question"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(bound.port)})
	a := s.datagram()
	s.to(a.peer, "answer")
	if got, _ := readUDP(t, server); got != "answer" {
		t.Errorf("the server has %q", got)
	}
	inside := g.socket(familyInet, unix.SOCK_DGRAM)
	if a := inside.must(opBind, 0, addressBody(inet("127.0.0.1:53"))); a.flags != flagLocal {
		t.Errorf("%+v", a)
	}
	inside.to(inet("192.0.2.1:9"), "out")
	if ev := inside.event(opError); unix.Errno(ev.value) != unix.EINVAL {
		t.Errorf("%+v", ev)
	}
}

func TestDatagramConfirmed(t *testing.T) {
	g := newGuest(t, Options{Policy: &Policy{HostNamespace: true}})
	server, addr := udpServer(t, "127.0.0.2:0")
	own := newGuest(t, Options{})
	for _, c := range []struct {
		name string
		g    *guest
		to   address
		want unix.Errno
	}{
		{"a server", own, addr, 0},
		{"nobody, who does not say so", own, inet("127.0.0.1:9"), 0},
		{"no way", own, inet("192.0.2.1:9"), unix.ENETUNREACH},
		{"broadcast without SO_BROADCAST", own, inet("127.255.255.255:9"), unix.EACCES},
		{"loopback of the host, as nobody", g, addr, 0},
		{"by policy", g, inet("169.254.169.254:80"), unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.g.socket(familyInet, unix.SOCK_DGRAM)
			s.send(opData, flagConfirm, 0, dataBody(c.to, address{}, notGiven, notGiven, []byte("x")))
			a := s.recv()
			if a.op != opData|opReply || a.id != s.id || unix.Errno(a.value) != c.want {
				t.Fatalf("%+v, want the reply %v", a, c.want)
			}
		})
	}
	if got, _ := readUDP(t, server); got != "x" {
		t.Errorf("the server has %q", got)
	}
	server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _, err := server.ReadFromUDP(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes more", n)
	}
	s := own.socket(familyInet, unix.SOCK_DGRAM)
	s.send(opBind, flagNoReply, 0, addressBody(inet("192.0.2.1:1")))
	s.send(opData, flagConfirm, 0, dataBody(addr, address{}, notGiven, notGiven, []byte("x")))
	if a := s.recv(); unix.Errno(a.value) != unix.EADDRNOTAVAIL {
		t.Errorf("after a failed bind: %+v", a)
	}
}
