package tsi

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dataBody(remote, local address, tos, ttl uint32, payload []byte) []byte {
	b := appendDataHead(nil, 0, &remote, &local, tos, ttl, len(payload))
	return append(b[headerSize:], payload...)
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

func TestDatagram(t *testing.T) {
	g := newGuest(t, Options{})
	c, addr := udpServer(t, "127.0.0.1:0")
	s := g.socket(familyInet, unix.SOCK_DGRAM)
	s.send(opData, 0, 0, dataBody(addr, address{}, notGiven, notGiven, []byte("ping")))
	b := make([]byte, 100)
	n, from, err := c.ReadFromUDP(b)
	if err != nil || string(b[:n]) != "ping" {
		t.Fatalf("the server has %q, %v", b[:n], err)
	}
	if _, err := c.WriteToUDP([]byte("pong"), from); err != nil {
		t.Fatal(err)
	}
	a := s.recv()
	if a.op != opData || string(a.data) != "pong" || a.peer != addr || a.local != inet(from.String()) {
		t.Errorf("the guest has %+v", a)
	}
}
