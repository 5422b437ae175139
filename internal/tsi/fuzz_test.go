package tsi

import (
	"bytes"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// build makes a message of what parse has found.
func build(m *message) []byte {
	var body []byte
	switch m.op {
	case opSocket:
		body = socketBody(m.family, m.typ)
	case opBind, opConnect:
		body = addressBody(m.addr)
	case opSetsockopt, opGetsockopt:
		body = optionBody(m.level, m.name, m.data)
	case opData:
		body = dataBody(m.addr, m.from, m.tos, m.ttl, m.data)
	}
	return frame(m.op, m.flags, m.id, m.value, body)
}

// FuzzParse: a message that is accepted says all that is in its bytes.
func FuzzParse(f *testing.F) {
	a := addressBody(inet("[2001:db8::1]:80"))
	for _, b := range [][]byte{
		frame(opSocket, flagNoReply, 1, unix.IPPROTO_TCP, socketBody(familyInet, unix.SOCK_STREAM)),
		frame(opBind, 0, 1, 0, addressBody(inet("127.0.0.1:80"))), frame(opConnect, 0, 1, 0, a), frame(opConnect, 0, 1, 0, addressBody(address{})),
		frame(opListen, 0, 1, 128, nil), frame(opSetsockopt, flagNoReply, 1, 0, optionBody(1, 2, []byte{1, 0, 0, 0})),
		frame(opGetsockopt, 0, 1, 4, optionBody(1, 2, nil)), frame(opAttach, 0, 1, 7, nil), frame(opShutdown, 0, 1, 2, nil),
		frame(opAbort, flagNoReply, 1, 0, nil), frame(opControl, 0, 0, version, nil),
		frame(opData, 0, 1, 0, dataBody(inet("192.0.2.1:53"), address{}, 16, notGiven, []byte("payload"))),
		frame(opData, flagConfirm, 1, 0, dataBody(inet("192.0.2.1:53"), inet("192.0.2.2:0"), notGiven, 255, nil)),
		nil, []byte("short"), make([]byte, headerSize),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if len(b) >= headerSize {
			if n, err := frameLength(b); err == nil && (n < headerSize || n > maxFrame) {
				t.Errorf("a frame of %d bytes", n)
			}
		}
		m, err := parse(b)
		if !bytes.Equal(b, before) {
			t.Error("the message was changed")
		}
		if err != nil {
			if !isProtocol(err) {
				t.Errorf("%v is no error of the protocol", err)
			}
			return
		}
		if got := build(&m); !bytes.Equal(got, b) {
			t.Errorf("%x became %x", b, got)
		}
	})
}

// script drives a server by bytes.
type script struct {
	data  []byte
	conns []*fakeConn
	ports []uint16
}

func (s *script) byte() byte {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return b
}

func (s *script) conn() *fakeConn {
	if len(s.conns) == 0 {
		return nil
	}
	return s.conns[int(s.byte())%len(s.conns)]
}

func (s *script) addr() address {
	switch b := s.byte(); b % 8 {
	case 0:
		return address{}
	case 1:
		return inet("[::1]:0")
	case 2:
		return inet("192.0.2.1:9")
	case 3:
		return inet("127.0.0.1:0")
	default:
		a := inet("127.0.0.1:0")
		a.port = s.ports[int(b>>3)%len(s.ports)]
		return a
	}
}

// message makes a message that is mostly right, and lies where the script says.
func (s *script) message() []byte {
	ops := []op{opSocket, opBind, opListen, opConnect, opSetsockopt, opGetsockopt, opAttach, opShutdown, opAbort, opControl, opData, 99}
	b := s.byte()
	m := message{op: ops[int(b&15)%len(ops)], flags: uint16(b >> 7), id: uint32(b>>4) & 3}
	switch m.op {
	case opSocket:
		c := s.byte()
		m.family = []uint16{familyInet, familyInet6, 1}[int(c&7)%3]
		m.typ = uint16(c>>3)&1 + 1
		m.value = []uint32{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, 132}[c>>4&3]
		if c>>6 == 0 { // what goes together
			m.value = []uint32{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[m.typ-1]
		}
	case opBind, opConnect:
		m.addr = s.addr()
	case opSetsockopt, opGetsockopt:
		c := s.byte()
		keys := []optionKey{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_LINGER}, {unix.SOL_SOCKET, unix.SO_ERROR},
			{unix.SOL_IP, unix.IP_RECVERR}, {unix.SOL_TCP, unix.TCP_INFO}, {unix.SOL_SOCKET, unix.SO_MARK},
			{unix.SOL_SOCKET, unix.SO_RCVBUF}, {unix.SOL_TCP, unix.TCP_DEFER_ACCEPT},
		}
		k := keys[c&7]
		m.level, m.name = k.level, k.name
		if m.op == opSetsockopt {
			m.data = make([]byte, c>>3)
			if len(m.data) > 0 {
				m.data[0] = s.byte()
			}
		} else {
			m.value = uint32(c>>3) * 17
		}
	case opListen, opAttach, opShutdown:
		m.value = uint32(s.byte()) & 7
	case opControl:
		m.value = version
	case opData:
		m.addr, m.from = s.addr(), s.addr()
		m.tos, m.ttl = notGiven, uint32(s.byte())
		m.data = make([]byte, int(s.byte())*40)
	}
	out := build(&m)
	if c := s.byte(); c&0xf0 == 0xf0 {
		out[int(s.byte())%len(out)] ^= 1 << (c & 7)
	}
	return out
}

// FuzzServer: whatever guests and peers do, the server ends with nothing left.
func FuzzServer(f *testing.F) {
	f.Add([]byte{})
	// A listener, peers, and an ATTACH.
	f.Add([]byte{0, 1, 0, 0x10, 0, 0, 1, 0, 0x11, 3, 0, 1, 0, 0x12, 4, 0, 6, 6, 0, 1, 1, 0x26, 1, 0, 7, 1, 2, 9, 3, 1})
	// Connect to a server and send.
	f.Add([]byte{0, 1, 0, 0x10, 0, 0, 1, 0, 0x13, 4, 0, 8, 7, 0, 200, 6, 2, 0, 3, 0, 4, 0})
	// Datagrams.
	f.Add([]byte{9, 1, 0, 0x10, 0x18, 0, 1, 0, 0x1a, 4, 0, 64, 5, 0, 1, 0, 0x13, 12, 0, 1, 0, 0x1a, 0, 0, 64, 5, 0, 5, 0, 3})
	// Control: an option, an ABORT.
	f.Add([]byte{0, 1, 0, 9, 0, 0, 1, 1, 0x10, 0, 0, 1, 0, 0x14, 0x21, 1, 0, 1, 0, 0x15, 2, 0, 1, 0, 0x98, 0, 4, 1})
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go func() { // an unkind server
		for i := 0; ; i++ {
			c, err := server.Accept()
			if err != nil {
				return
			}
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0)
			} else {
				c.Write(make([]byte, 3000))
			}
			c.Close()
		}
	}()
	f.Cleanup(func() { peer.Close(); server.Close() })
	ports := []uint16{uint16(peer.LocalAddr().(*net.UDPAddr).Port), uint16(server.Addr().(*net.TCPAddr).Port), 9}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1024 {
			data = data[:1024]
		}
		fds, goroutines := openFDs(t), runtime.NumGoroutine()
		srv := New(Options{Log: quiet, MaxSockets: 16, MaxDatagram: 8, DrainTimeout: time.Millisecond})
		streams, packets := newFakeListener(), newFakeListener()
		srv.Serve(streams, packets)
		s := &script{data: data, ports: ports}
		deadlock := time.AfterFunc(30*time.Second, func() { panic("deadlock") })
		for len(s.data) > 0 {
			b := s.byte()
			switch c := s.conn(); {
			case b%8 == 0 && len(s.conns) < 16 || b == 9:
				c, l := newFakeConn(b == 9), streams
				if b == 9 {
					l = packets
				}
				s.conns = append(s.conns, c)
				l.conns <- c
			case c == nil:
			case b%8 == 1:
				c.guestWrite(s.message())
			case b%8 == 2:
				c.guestShutdown()
			case b%8 == 3:
				c.end(true)
			case b%8 == 4:
				c.end(false)
			case b%8 == 5:
				c.guestRead(int(s.byte()) << 8)
			case b%8 == 6: // a peer for whoever listens
				srv.mu.Lock()
				var to []address
				for _, k := range srv.sockets {
					local, _ := k.names()
					to = append(to, local)
				}
				srv.mu.Unlock()
				for _, a := range to {
					if a.port == 0 {
						continue
					}
					if conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(a.port))), 10*time.Millisecond); err == nil {
						conn.Write([]byte("hello"))
						conn.Close()
					}
				}
			case b%8 == 7:
				c.guestWrite(make([]byte, int(s.byte())<<6))
			}
			if b&0x80 != 0 {
				runtime.Gosched()
			}
		}
		if len(data)%2 == 0 { // the guest's end first, or the server's
			for _, c := range s.conns {
				c.end(len(data)%4 == 0)
			}
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		deadlock.Stop()
		if st := srv.Stats(); st.Connections+st.Listeners+st.Datagrams != 0 {
			t.Errorf("open after the end: %+v", st)
		}
		if srv.reserved != 0 || srv.datagrams != 0 || len(srv.sockets) != 0 || len(srv.tokens) != 0 || len(srv.conns) != 0 {
			t.Errorf("left: %d reserved, %d sockets, %d tokens, %d connections", srv.reserved, len(srv.sockets), len(srv.tokens), len(srv.conns))
		}
		eventually(t, "descriptors or goroutines are left", func() bool {
			return openFDs(t) <= fds+1 && runtime.NumGoroutine() <= goroutines
		})
	})
}
