package vsock

import (
	"context"
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// pipe returns the two ends of a connection between two devices.
func pipe(tb testing.TB, a, b *Device, typ Type) (dialed, accepted *Conn) {
	tb.Helper()
	l, err := b.listen(typ, 1024)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	dialed, err = a.dial(context.Background(), typ, 1024)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return dialed, c.(*Conn)
}

func TestNetConn(t *testing.T) {
	for name, o := range map[string]guestOptions{
		"linux":      {},
		"large":      {rxSize: HeaderSize + maxPacket},
		"small":      {rxSize: HeaderSize + 1000, entries: 4},
		"noEventIdx": {noEventIdx: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, Options{}, o)
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				c1, c2 := pipe(t, a, b, TypeStream)
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}
