package tsi

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOptions(t *testing.T) {
	g := newGuest(t, Options{})
	number := func(v byte) []byte { return []byte{v, 0, 0, 0} }
	for _, c := range []struct {
		name        string
		family, typ uint16
		level, opt  uint32
		set         []byte
		want        []byte // nil: not asked
		errno       unix.Errno
	}{
		{"SO_REUSEADDR", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_REUSEADDR, number(1), number(1), 0},
		{"SO_REUSEPORT", familyInet, unix.SOCK_DGRAM, unix.SOL_SOCKET, unix.SO_REUSEPORT, number(1), number(1), 0},
		{"SO_LINGER", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_LINGER, append(number(1), number(9)...), append(number(1), number(9)...), 0},
		{"SO_LINGER, short", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_LINGER, number(1), make([]byte, 8), unix.EINVAL},
		{"longer than it is", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_KEEPALIVE, append(number(1), 1, 2, 3), number(1), 0},
		{"shorter", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_KEEPALIVE, []byte{1, 0}, number(0), unix.EINVAL},
		{"empty", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_KEEPALIVE, nil, number(0), unix.EINVAL},
		{"TCP_NODELAY", familyInet6, unix.SOCK_STREAM, unix.SOL_TCP, unix.TCP_NODELAY, number(1), number(1), 0},
		{"TCP_NODELAY of UDP", familyInet, unix.SOCK_DGRAM, unix.SOL_TCP, unix.TCP_NODELAY, number(1), nil, unix.ENOPROTOOPT},
		{"TCP_KEEPIDLE", familyInet, unix.SOCK_STREAM, unix.SOL_TCP, unix.TCP_KEEPIDLE, number(77), number(77), 0},
		{"TCP_KEEPIDLE, too much", familyInet, unix.SOCK_STREAM, unix.SOL_TCP, unix.TCP_KEEPIDLE, []byte{0, 0, 1, 0}, nil, unix.EINVAL},
		{"IP_TOS as a byte", familyInet, unix.SOCK_DGRAM, unix.SOL_IP, unix.IP_TOS, []byte{0x10}, number(0x10), 0},
		{"IPV6_V6ONLY", familyInet6, unix.SOCK_STREAM, unix.SOL_IPV6, unix.IPV6_V6ONLY, number(1), number(1), 0},
		{"SO_ERROR is read only", familyInet, unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_ERROR, number(1), number(0), unix.ENOPROTOOPT},
		{"SO_PROTOCOL", familyInet, unix.SOCK_DGRAM, unix.SOL_SOCKET, unix.SO_PROTOCOL, number(6), number(17), unix.ENOPROTOOPT},
		{"IP_ADD_MEMBERSHIP, short", familyInet, unix.SOCK_DGRAM, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, number(1), nil, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := g.socket(c.family, c.typ)
			s.tb = t
			s.fails(c.errno, opSetsockopt, 0, optionBody(c.level, c.opt, c.set))
			if c.want == nil {
				return
			}
			a := s.call(opGetsockopt, maxOption, optionBody(c.level, c.opt, nil))
			if a.value != 0 || !bytes.Equal(a.data, c.want) {
				t.Errorf("%v, %x, want %x", unix.Errno(a.value), a.data, c.want)
			}
			if a = s.call(opGetsockopt, 1, optionBody(c.level, c.opt, nil)); a.value != 0 || !bytes.Equal(a.data, c.want[:1]) {
				t.Errorf("one byte of it: %v, %x", unix.Errno(a.value), a.data)
			}
		})
	}
}

// TestForbiddenOptions: what is not in the list does not exist.
func TestForbiddenOptions(t *testing.T) {
	g := newGuest(t, Options{})
	s := g.socket(familyInet, unix.SOCK_STREAM)
	for _, o := range []optionKey{
		{unix.SOL_SOCKET, unix.SO_MARK}, {unix.SOL_SOCKET, unix.SO_BINDTODEVICE}, {unix.SOL_SOCKET, unix.SO_ATTACH_FILTER},
		{unix.SOL_SOCKET, unix.SO_ATTACH_BPF}, {unix.SOL_SOCKET, unix.SO_RCVLOWAT}, {unix.SOL_SOCKET, unix.SO_RCVTIMEO_OLD},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE}, {unix.SOL_SOCKET, unix.SO_PEERCRED}, {unix.SOL_SOCKET, unix.SO_ZEROCOPY},
		{unix.SOL_IP, unix.IP_TRANSPARENT}, {unix.SOL_IP, unix.IP_OPTIONS}, {unix.SOL_IP, unix.IP_HDRINCL}, {unix.SOL_IP, unix.IP_PKTINFO},
		{unix.SOL_IP, 64 /* IPT_SO_SET_REPLACE */}, {unix.SOL_IPV6, unix.IPV6_TRANSPARENT}, {unix.SOL_IPV6, unix.IPV6_RTHDR},
		{unix.SOL_IPV6, unix.IPV6_ADDRFORM}, {unix.SOL_TCP, unix.TCP_REPAIR}, {unix.SOL_TCP, unix.TCP_ULP}, {unix.SOL_TCP, unix.TCP_MD5SIG},
		{unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT}, {unix.SOL_UDP, unix.UDP_ENCAP}, {unix.SOL_UDP, unix.UDP_NO_CHECK6_TX}, {unix.SOL_NETLINK, 1}, {1 << 31, 1}, {^uint32(0), ^uint32(0)},
	} {
		s.fails(unix.ENOPROTOOPT, opSetsockopt, 0, optionBody(o.level, o.name, make([]byte, maxOption)))
		s.fails(unix.ENOPROTOOPT, opGetsockopt, maxOption, optionBody(o.level, o.name, nil))
	}
}

func TestControl(t *testing.T) {
	g := newGuest(t, Options{})
	s, _ := g.connect()
	ctl := g.control()
	on := optionBody(unix.SOL_TCP, unix.TCP_NODELAY, []byte{1, 0, 0, 0})
	if a := ctl.call(opSetsockopt, s.id, 0, on); a.value != 0 || a.peer.family != familyInet || a.local.family != familyInet {
		t.Errorf("%+v", a)
	}
	if ctl.ask(s.id, unix.SOL_TCP, unix.TCP_NODELAY) != 1 {
		t.Error("not set")
	}
	if a := ctl.call(opGetsockopt, s.id, maxOption, optionBody(unix.SOL_TCP, unix.TCP_INFO, nil)); a.value != 0 || len(a.data) < 100 {
		t.Errorf("TCP_INFO: %+v", a)
	}
	for _, c := range []struct {
		name string
		op   op
		body []byte
		want unix.Errno
	}{
		{"set", opSetsockopt, on, unix.ENOTCONN},
		{"get", opGetsockopt, optionBody(unix.SOL_TCP, unix.TCP_NODELAY, nil), unix.ENOTCONN},
		{"abort", opAbort, nil, 0},
	} {
		if a := ctl.call(c.op, 1<<31, 0, c.body); unix.Errno(a.value) != c.want || a.local.family != familyNone {
			t.Errorf("%s of nobody: %+v", c.name, a)
		}
	}
	if e := g.soError(1 << 31); e != unix.ECONNRESET {
		t.Errorf("SO_ERROR of nobody: %v", e)
	}
	ctl.send(opSetsockopt, 1<<31, flagNoReply, on)
	ctl.send(opSetsockopt, s.id, flagNoReply, optionBody(unix.SOL_SOCKET, unix.SO_MARK, nil))
	if ctl.ask(s.id, unix.SOL_SOCKET, unix.SO_ERROR) != 0 {
		t.Error("an error that was not the socket's")
	}
	if st := g.srv.Stats(); st.Dropped != 2 {
		t.Errorf("%+v", st)
	}
	// A new one takes over.
	g.ctl = nil
	g.control().ask(s.id, unix.SOL_SOCKET, unix.SO_TYPE)
	if err := ctl.gone(); err == nil {
		t.Error("the old control connection ends in good order")
	}
}

func TestControlVersion(t *testing.T) {
	g := newGuest(t, Options{})
	c := g.dial(unix.SOCK_STREAM)
	c.fails(unix.EPROTONOSUPPORT, opControl, 2, nil)
	if err := c.gone(); err == nil {
		t.Error("it goes on")
	}
}
