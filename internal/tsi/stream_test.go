package tsi

import (
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
	s.conn.Close()
	eventually(t, "the connection goes on", func() bool { return g.srv.Stats().Connections == 0 })
}

func TestListen(t *testing.T) {
	g := newGuest(t, Options{})
	s := g.socket(familyInet, unix.SOCK_STREAM)
	bound := s.must(opBind, 0, addressBody(inet("127.0.0.1:0"))).local
	if bound.port == 0 {
		t.Fatal("bound to port 0")
	}
	s.must(opListen, 8, nil)
	c, err := net.Dial("tcp", bound.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	ev := s.event(opAccept)
	if ev.peer != inet(c.LocalAddr().String()) || ev.local != bound {
		t.Errorf("announced %v, %v; want %v, %v", ev.local, ev.peer, bound, c.LocalAddr())
	}
	a := g.attach(ev.value)
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	if got := a.readAll(); got != "hello" {
		t.Errorf("the guest has %q", got)
	}
	a.write([]byte("bye"))
	a.conn.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Errorf("the client has %q, %v", got, err)
	}
}
