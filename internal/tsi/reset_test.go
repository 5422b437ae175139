package tsi

import (
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// soError asks for the error of a connection that broke.
func (g *guest) soError(id uint32) unix.Errno {
	g.tb.Helper()
	return unix.Errno(g.control().ask(id, unix.SOL_SOCKET, unix.SO_ERROR))
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func TestPeerResets(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(s *gsock, c *net.TCPConn)
		after  func(s *gsock)
	}{
		{name: "idle"},
		{name: "guest has shut down", before: func(s *gsock, c *net.TCPConn) {
			s.conn.CloseWrite()
			io.Copy(io.Discard, c)
		}},
		{name: "guest sends", after: func(s *gsock) { s.conn.Write(big()) }},
		{name: "guest is sending", before: func(s *gsock, c *net.TCPConn) {
			go s.conn.Write(big())
			io.CopyN(io.Discard, c, 1<<20)
		}},
		{name: "peer has sent", before: func(s *gsock, c *net.TCPConn) { c.Write(make([]byte, 1000)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, Options{})
			s, peer := g.connect()
			if c.before != nil {
				c.before(s, peer)
			}
			reset(peer)
			if c.after != nil {
				c.after(s)
			}
			if err := s.gone(); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the guest has %v", err)
			}
			eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 0 })
			if e := g.soError(s.id); e != unix.ECONNRESET {
				t.Errorf("SO_ERROR is %v", e)
			}
		})
	}
}

// TestPeerResetsAfterFIN: as TCP has it, nothing can be sent then.
func TestPeerResetsAfterFIN(t *testing.T) {
	for _, sends := range []bool{false, true} {
		g := newGuest(t, Options{})
		s, peer := g.connect()
		peer.CloseWrite()
		if got := s.readAll(); got != "" {
			t.Errorf("the guest has %q", got)
		}
		if sends {
			s.write([]byte("x"))
			if _, err := peer.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		reset(peer)
		eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 0 })
		if e := g.soError(s.id); e != unix.EPIPE {
			t.Errorf("SO_ERROR is %v", e)
		}
	}
}

func TestGuestResets(t *testing.T) {
	linger := func(on, seconds byte) []byte { return []byte{on, 0, 0, 0, seconds, 0, 0, 0} }
	for _, c := range []struct {
		name string
		end  func(g *guest, s *gsock)
		want error
	}{
		{"close", func(_ *guest, s *gsock) { s.conn.Close() }, nil},
		{"vsock reset", func(_ *guest, s *gsock) { s.conn.Abort() }, unix.ECONNRESET},
		{"ABORT", func(g *guest, s *gsock) {
			g.control().send(opAbort, s.id, flagNoReply, nil)
			s.conn.Close()
		}, unix.ECONNRESET},
		{"ABORT with a reply", func(g *guest, s *gsock) {
			g.control().call(opAbort, s.id, 0, nil)
			s.conn.Close()
		}, unix.ECONNRESET},
		{"lingers not", func(g *guest, s *gsock) {
			g.control().call(opSetsockopt, s.id, 0, optionBody(unix.SOL_SOCKET, unix.SO_LINGER, linger(1, 0)))
			s.conn.Close()
		}, unix.ECONNRESET},
		{"lingers", func(g *guest, s *gsock) {
			g.control().call(opSetsockopt, s.id, 0, optionBody(unix.SOL_SOCKET, unix.SO_LINGER, linger(1, 5)))
			s.conn.Close()
		}, nil},
		{"device reset", func(g *guest, _ *gsock) { g.host.Reset() }, unix.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, Options{})
			s, peer := g.connect()
			c.end(g, s)
			if _, err := peer.Read(make([]byte, 1)); err == nil || (c.want == nil) != (err == io.EOF) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("the peer has %v, want %v", err, c.want)
			}
			eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 0 })
		})
	}
}

// TestAbortOvertakes sends the ABORT and the end of the connection at once, with
// data that would have to wait otherwise.
func TestAbortOvertakes(t *testing.T) {
	g := newGuest(t, Options{})
	ctl := g.control()
	for range 50 {
		s, peer := g.connect()
		s.write([]byte("lost"))
		ctl.send(opAbort, s.id, flagNoReply, nil)
		s.conn.Close()
		if _, err := io.Copy(io.Discard, peer); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the peer has %v", err)
		}
	}
}

func TestCloseWithUnreadData(t *testing.T) {
	g := newGuest(t, Options{})
	s, peer := g.connect()
	s.write([]byte("last words"))
	peer.Write(big()[:1<<20])
	// What fits is in the guest, which closes without having read it.
	eventually(t, "nothing arrives", func() bool { return s.conn.Received() > 0 })
	s.conn.Close()
	got, err := io.ReadAll(peer)
	if !errors.Is(err, unix.ECONNRESET) && (err != nil || string(got) != "last words") {
		t.Errorf("the peer has %q, %v", got, err)
	}
}
