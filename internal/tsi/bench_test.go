package tsi

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/vsock"
	"runv.dev/runv/virtio/vsock/vsocktest"
)

const benchWrite = 64 << 10

// The receive buffers of the guest: a Linux driver's, and large ones.
var benchBuffers = map[string]int{"linux": vsocktest.LinuxBuffer, "64K": vsock.HeaderSize + 64<<10}

func benchReceive(b *testing.B, w io.Writer, r io.Reader) {
	b.SetBytes(benchWrite)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		p := make([]byte, benchWrite)
		for range b.N {
			w.Write(p)
		}
	}()
	p := make([]byte, 4*benchWrite)
	for left := int64(b.N) * benchWrite; left > 0; {
		n, err := r.Read(p)
		if err != nil {
			b.Fatal(err)
		}
		left -= int64(n)
	}
}

func benchPingPong(b *testing.B, a io.ReadWriter, z io.ReadWriter) {
	go func() {
		p := make([]byte, 1)
		for {
			if _, err := z.Read(p); err != nil {
				return
			}
			z.Write(p)
		}
	}()
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(a, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoopback is what the others are to be compared with.
func BenchmarkLoopback(b *testing.B) {
	pair := func(b *testing.B) (net.Conn, net.Conn) {
		l, addr := tcpServer(b)
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c, tcpAccept(b, l)
	}
	b.Run("Stream", func(b *testing.B) {
		c1, c2 := pair(b)
		benchReceive(b, c1, c2)
	})
	b.Run("RoundTrip", func(b *testing.B) {
		c1, c2 := pair(b)
		benchPingPong(b, c1, c2)
	})
}

// BenchmarkVsock is what the guest's half of the benchmarks costs: two devices,
// joined.
func BenchmarkVsock(b *testing.B) {
	pair := func(b *testing.B, rx int) (*vsock.Conn, *vsock.Conn) {
		d1, d2 := vsocktest.Pair(b, vsock.Options{}, vsock.Options{}, rx)
		l, err := d1.Listen(Port)
		if err != nil {
			b.Fatal(err)
		}
		c2, err := d2.Dial(b.Context(), Port)
		if err != nil {
			b.Fatal(err)
		}
		c1, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c1.Close(); c2.Close() })
		return c1.(*vsock.Conn), c2
	}
	for name, rx := range benchBuffers {
		b.Run("Stream/"+name, func(b *testing.B) {
			c1, c2 := pair(b, rx)
			benchReceive(b, c1, c2)
		})
	}
	b.Run("RoundTrip", func(b *testing.B) {
		c1, c2 := pair(b, 0)
		benchPingPong(b, c1, c2)
	})
}

func BenchmarkStream(b *testing.B) {
	for name, rx := range benchBuffers {
		b.Run("ToGuest/"+name, func(b *testing.B) {
			s, c := newGuestWith(b, Options{}, rx).connect()
			benchReceive(b, c, s.conn)
		})
		b.Run("FromGuest/"+name, func(b *testing.B) {
			s, c := newGuestWith(b, Options{}, rx).connect()
			benchReceive(b, s.conn, c)
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	s, c := newGuest(b, Options{}).connect()
	benchPingPong(b, s.conn, c)
}

func BenchmarkConnect(b *testing.B) {
	g := newGuest(b, Options{})
	l, addr := tcpServer(b)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	body := addressBody(addr)
	b.ReportAllocs()
	for b.Loop() {
		s := g.socket(familyInet, unix.SOCK_STREAM)
		s.must(opConnect, 0, body)
		s.conn.Close()
	}
}
