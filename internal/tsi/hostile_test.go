package tsi

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHostile: whoever breaks the protocol loses the connection, and nothing
// else happens.
func TestHostile(t *testing.T) {
	const stream, packet = unix.SOCK_STREAM, unix.SOCK_DGRAM
	any4 := addressBody(inet("127.0.0.1:0"))
	socket := func(typ uint16, id uint32) []byte {
		proto := map[uint16]uint32{stream: unix.IPPROTO_TCP, packet: unix.IPPROTO_UDP}[typ]
		return frame(opSocket, 0, id, proto, socketBody(familyInet, typ))
	}
	edit := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	length := func(b []byte, n uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b, n)
		return b
	}
	bad4 := func(at int) []byte { return edit(any4, at, 1) }
	data := dataBody(inet("127.0.0.1:9"), address{}, notGiven, notGiven, []byte("x"))
	for _, c := range []struct {
		name  string
		typ   uint16
		first bool // the message comes first; else after SOCKET
		b     []byte
	}{
		{"no length", stream, true, length(socket(stream, 1), 0)},
		{"short length", stream, true, length(socket(stream, 1), 15)},
		{"long length", stream, true, length(socket(stream, 1), 4097)},
		{"endless length", stream, true, length(socket(stream, 1), ^uint32(0))},
		{"another length", stream, true, append(length(socket(stream, 1), 25), 0)},
		{"unknown op", stream, true, frame(11, 0, 1, 0, nil)},
		{"op 0", stream, true, frame(0, 0, 1, 0, nil)},
		{"a reply", stream, true, frame(opSocket|opReply, 0, 1, 0, nil)},
		{"an event", stream, true, frame(opAccept, 0, 1, 0, nil)},
		{"unknown flag", stream, true, edit(socket(stream, 1), 6, 2)},
		{"high flag", stream, true, edit(socket(stream, 1), 7, 0x80)},
		{"id 0", stream, true, socket(stream, 0)},
		{"id in use", stream, true, socket(stream, 7777)},
		{"attach to id 0", stream, true, frame(opAttach, 0, 0, 1, nil)},
		{"attach, no reply", stream, true, frame(opAttach, flagNoReply, 1, 1, nil)},
		{"datagram type", stream, true, frame(opSocket, 0, 1, unix.IPPROTO_UDP, socketBody(familyInet, packet))},
		{"padding", stream, true, edit(socket(stream, 1), 23, 1)},
		{"short body", stream, true, length(socket(stream, 1)[:20], 20)},
		{"bind first", stream, true, frame(opBind, 0, 1, 0, any4)},
		{"setsockopt first", stream, true, frame(opSetsockopt, 0, 1, 0, optionBody(1, 1, []byte{1, 0, 0, 0}))},
		{"abort first", stream, true, frame(opAbort, 0, 1, 0, nil)},
		{"data on a stream", stream, true, frame(opData, 0, 1, 0, data)},

		{"second socket", stream, false, socket(stream, 42)},
		{"other id", stream, false, frame(opBind, 0, 43, 0, any4)},
		{"control on a socket", stream, false, frame(opControl, 0, 42, version, nil)},
		{"attach on a socket", stream, false, frame(opAttach, 0, 42, 1, nil)},
		{"abort on a socket", stream, false, frame(opAbort, 0, 42, 0, nil)},
		{"shutdown on a stream", stream, false, frame(opShutdown, 0, 42, 1, nil)},
		{"data after socket", stream, false, frame(opData, 0, 42, 0, data)},
		{"bind with a value", stream, false, frame(opBind, 0, 42, 1, any4)},
		{"connect with a value", stream, false, frame(opConnect, 0, 42, 1, any4)},
		{"connect, no reply", stream, false, frame(opConnect, flagNoReply, 42, 0, any4)},
		{"short address", stream, false, frame(opBind, 0, 42, 0, any4[:31])},
		{"long address", stream, false, frame(opBind, 0, 42, 0, append(bytes.Clone(any4), 0))},
		{"unknown family", stream, false, frame(opBind, 0, 42, 0, edit(any4, 0, 1))},
		{"scope of IPv4", stream, false, frame(opBind, 0, 42, 0, bad4(4))},
		{"flow of IPv4", stream, false, frame(opBind, 0, 42, 0, bad4(8))},
		{"long IPv4", stream, false, frame(opBind, 0, 42, 0, bad4(16))},
		{"address padding", stream, false, frame(opBind, 0, 42, 0, bad4(31))},
		{"no family but a port", stream, false, frame(opBind, 0, 42, 0, edit(make([]byte, addressSize), 2, 1))},
		{"body of listen", stream, false, frame(opListen, 0, 42, 1, []byte{0})},
		{"no option", stream, false, frame(opSetsockopt, 0, 42, 0, []byte{1, 0, 0, 0, 2, 0, 0})},
		{"long option", stream, false, frame(opSetsockopt, 0, 42, 0, make([]byte, 8+maxOption+1))},
		{"get with a value", stream, false, frame(opGetsockopt, 0, 42, 4, make([]byte, 9))},
		{"too much room", stream, false, frame(opGetsockopt, 0, 42, maxOption+1, make([]byte, 8))},
		{"endless room", stream, false, frame(opGetsockopt, 0, 42, ^uint32(0), make([]byte, 8))},

		{"control on a packet", packet, true, frame(opControl, 0, 0, version, nil)},
		{"attach on a packet", packet, true, frame(opAttach, 0, 1, 1, nil)},
		{"data first", packet, true, frame(opData, 0, 1, 0, data)},
		{"stream type", packet, true, frame(opSocket, 0, 1, unix.IPPROTO_TCP, socketBody(familyInet, stream))},
		{"half a header", packet, true, []byte{8, 0, 0, 0, 1, 0, 0, 0}},
		{"two in one", packet, true, append(socket(packet, 1), socket(packet, 2)...)},
		{"id in use by a stream", packet, true, socket(packet, 7777)},
		{"longest message", packet, false, frame(opData, 0, 42, 0, make([]byte, maxMessage-headerSize+1))},
		{"data without payload or head", packet, false, frame(opData, 0, 42, 0, data[:71])},
		{"data with a flag", packet, false, frame(opData, flagNoReply, 42, 0, data)},
		{"data with another flag", packet, false, frame(opData, flagConfirm<<1, 42, 0, data)},
		{"confirmed bind", packet, false, frame(opBind, flagConfirm, 42, 0, any4)},
		{"data of another", packet, false, frame(opData, 0, 43, 0, data)},
		{"data with a value", packet, false, frame(opData, 0, 42, 1, data)},
		{"data, type of service", packet, false, frame(opData, 0, 42, 0, edit(data, 65, 1))},
		{"data, time to live", packet, false, frame(opData, 0, 42, 0, edit(data, 69, 1))},
		{"data to nowhere", packet, false, frame(opData, 0, 42, 0, edit(data, 0, 3))},
		{"data from nowhere", packet, false, frame(opData, 0, 42, 0, edit(data, 32, 3))},
		{"abort on a packet", packet, false, frame(opAbort, 0, 42, 0, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, Options{})
			other, _ := g.connect()
			innocent := g.dial(stream)
			innocent.id = 7777
			innocent.send(opSocket, 0, unix.IPPROTO_TCP, socketBody(familyInet, stream))
			innocent.recv()
			s := g.dial(c.typ)
			if s.id = 42; !c.first {
				s.write(socket(c.typ, 42))
				s.recv()
			}
			s.write(c.b)
			if err := s.gone(); err == nil {
				t.Error("the connection ends in good order")
			}
			eventually(t, "not counted", func() bool { return g.srv.Stats().Malformed == 1 })
			// Nobody else is touched.
			innocent.must(opBind, 0, any4)
			other.write([]byte("x"))
			eventually(t, "the socket is still there", func() bool { return openSockets(g.srv) == 2 })
		})
	}
}

func TestHostileControl(t *testing.T) {
	for name, b := range map[string][]byte{
		"socket":      frame(opSocket, 0, 1, unix.IPPROTO_TCP, socketBody(familyInet, unix.SOCK_STREAM)),
		"bind":        frame(opBind, 0, 1, 0, addressBody(inet("127.0.0.1:0"))),
		"control":     frame(opControl, 0, 0, version, nil),
		"attach":      frame(opAttach, 0, 1, 1, nil),
		"bad length":  frame(opAbort, 0, 1, 0, []byte{0}),
		"bad value":   frame(opAbort, 0, 1, 1, nil),
		"long option": frame(opSetsockopt, 0, 1, 0, make([]byte, 8+maxOption+1)),
		"too long":    append(appendHeader(nil, maxFrame+1, opAbort, 0, 1, 0), make([]byte, maxFrame)...),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, Options{})
			s, _ := g.connect()
			ctl := g.control()
			ctl.write(b)
			if err := ctl.gone(); err == nil {
				t.Error("the connection ends in good order")
			}
			s.write([]byte("x"))
			g.ctl = nil
			g.control().ask(s.id, unix.SOL_SOCKET, unix.SO_TYPE)
		})
	}
}

// TestSilent: connections on which nothing is said do not stay.
func TestSilent(t *testing.T) {
	g := newGuest(t, Options{FirstTimeout: 50 * time.Millisecond})
	var all []*gsock
	for range 100 {
		all = append(all, g.dial(unix.SOCK_STREAM), g.dial(unix.SOCK_DGRAM))
	}
	half := g.dial(unix.SOCK_STREAM)
	half.write([]byte{24, 0, 0, 0, 1})
	live := g.socket(familyInet, unix.SOCK_STREAM)
	for _, s := range append(all, half) {
		if err := s.gone(); err == nil {
			t.Fatal("the connection ends in good order")
		}
	}
	live.must(opBind, 0, addressBody(inet("127.0.0.1:0")))
	eventually(t, "connections are left", func() bool {
		g.srv.mu.Lock()
		defer g.srv.mu.Unlock()
		return len(g.srv.conns) == 1
	})
}

// TestMute: a guest that sends requests and reads no replies holds itself up.
func TestMute(t *testing.T) {
	g := newGuest(t, Options{})
	mute := g.socket(familyInet, unix.SOCK_STREAM)
	mute.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	request := frame(opGetsockopt, 0, mute.id, maxOption, optionBody(unix.SOL_TCP, unix.TCP_INFO, nil))
	request = bytes.Repeat(request, 1000)
	for {
		if _, err := mute.conn.Write(request); err != nil {
			break
		}
	}
	s, _ := g.connect()
	s.write([]byte("x"))
	g.control().ask(s.id, unix.SOL_SOCKET, unix.SO_TYPE)
}
