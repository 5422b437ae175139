package tsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Op is what a message asks for or says.
type op uint16

const (
	opSocket     op = 1
	opBind       op = 2
	opListen     op = 3
	opConnect    op = 4
	opSetsockopt op = 5
	opGetsockopt op = 6
	opAttach     op = 7
	opShutdown   op = 8
	opAbort      op = 9
	opControl    op = 10
	opData       op = 16

	opReply = 0x8000 // added to the op of the request

	opAccept op = 0x4001
	opError  op = 0x4002
)

// Flags.
const (
	flagNoReply = 1 // of a request
	flagLocal   = 2 // of a reply
	flagConfirm = 4 // of DATA
)

// Sizes in bytes.
const (
	headerSize  = 16
	addressSize = 32

	maxFrame   = 4096  // a message on a STREAM connection
	maxPayload = 65527 // of a datagram
	dataHead   = headerSize + 2*addressSize + 8
	maxMessage = dataHead + maxPayload

	maxOption = 512 // a socket option's value
)

// version is that of the protocol, which CONTROL carries.
const version = 1

// notGiven is a type of service or a time to live that was not given.
const notGiven = ^uint32(0)

// Families, as Linux numbers them.
const (
	familyNone  = 0
	familyInet  = 2
	familyInet6 = 10
)

// address is a socket address. The zero value is none.
type address struct {
	family   uint16
	port     uint16
	scope    uint32 // AF_INET6: an interface index
	flowinfo uint32 // AF_INET6
	ip       [16]byte
}

// addr has the IP address; the zero Addr for none.
func (a *address) addr() netip.Addr {
	switch a.family {
	case familyInet:
		return netip.AddrFrom4([4]byte(a.ip[:4]))
	case familyInet6:
		return netip.AddrFrom16(a.ip)
	}
	return netip.Addr{}
}

func (a address) String() string {
	if a.family == familyNone {
		return "none"
	}
	return netip.AddrPortFrom(a.addr(), a.port).String()
}

// message is a message from the guest, with everything in it checked but for
// the meaning of the numbers.
type message struct {
	op    op
	flags uint16
	id    uint32
	value uint32

	family, typ uint16 // SOCKET

	addr address // BIND, CONNECT; DATA: remote
	from address // DATA: local

	level, name uint32 // SETSOCKOPT, GETSOCKOPT

	tos, ttl uint32 // DATA

	data []byte // option value, payload; part of the parsed bytes
}

var (
	errLength  = errors.New("wrong length")
	errOp      = errors.New("unknown op")
	errFlags   = errors.New("unknown flags")
	errValue   = errors.New("unexpected value")
	errPadding = errors.New("an unused field is not zero")
	errAddress = errors.New("not an address")
	errID      = errors.New("wrong id")
)

// frameLength has the length of the message on a STREAM connection that begins
// with b, which has at least headerSize bytes.
func frameLength(b []byte) (int, error) {
	n := binary.LittleEndian.Uint32(b)
	if n < headerSize || n > maxFrame {
		return 0, fmt.Errorf("%w: %d", errLength, n)
	}
	return int(n), nil
}

// parse takes a whole message apart. b must be a copy: the guest can change its
// own memory at any moment. Every message from the guest goes through here.
func parse(b []byte) (message, error) {
	le := binary.LittleEndian
	if len(b) < headerSize || uint64(len(b)) != uint64(le.Uint32(b)) {
		return message{}, errLength
	}
	m := message{
		op:    op(le.Uint16(b[4:])),
		flags: le.Uint16(b[6:]),
		id:    le.Uint32(b[8:]),
		value: le.Uint32(b[12:]),
	}
	body := b[headerSize:]
	allowed := uint16(flagNoReply)
	if m.op == opData {
		allowed = flagConfirm
	}
	if m.flags&^allowed != 0 {
		return m, errFlags
	}
	switch m.op {
	case opBind, opConnect, opSetsockopt, opAbort, opData:
		if m.value != 0 {
			return m, errValue
		}
	}
	var err error
	switch m.op {
	case opSocket:
		if len(body) != 8 {
			return m, errLength
		}
		m.family, m.typ = le.Uint16(body), le.Uint16(body[2:])
		if le.Uint32(body[4:]) != 0 {
			return m, errPadding
		}
	case opBind, opConnect:
		if len(body) != addressSize {
			return m, errLength
		}
		m.addr, err = parseAddress(body)
	case opListen, opAttach, opShutdown, opAbort, opControl:
		if len(body) != 0 {
			return m, errLength
		}
	case opSetsockopt, opGetsockopt:
		if len(body) < 8 || len(body) > 8+maxOption || (m.op == opGetsockopt && len(body) != 8) {
			return m, errLength
		}
		m.level, m.name, m.data = le.Uint32(body), le.Uint32(body[4:]), body[8:]
		if m.op == opGetsockopt && m.value > maxOption {
			return m, errValue
		}
	case opData:
		if len(body) < dataHead-headerSize || len(b) > maxMessage {
			return m, errLength
		}
		if m.addr, err = parseAddress(body); err != nil {
			return m, err
		}
		if m.from, err = parseAddress(body[addressSize:]); err != nil {
			return m, err
		}
		m.tos, m.ttl = le.Uint32(body[2*addressSize:]), le.Uint32(body[2*addressSize+4:])
		if (m.tos != notGiven && m.tos > 255) || (m.ttl != notGiven && m.ttl > 255) {
			return m, errValue
		}
		m.data = body[2*addressSize+8:]
	default:
		return m, errOp
	}
	return m, err
}

// parseAddress takes an address from the first addressSize bytes of b.
func parseAddress(b []byte) (address, error) {
	le := binary.LittleEndian
	b = b[:addressSize]
	a := address{
		family:   le.Uint16(b),
		port:     le.Uint16(b[2:]),
		scope:    le.Uint32(b[4:]),
		flowinfo: le.Uint32(b[8:]),
		ip:       [16]byte(b[12:28]),
	}
	zero := func(b []byte) bool {
		for _, v := range b {
			if v != 0 {
				return false
			}
		}
		return true
	}
	switch {
	case le.Uint32(b[28:]) != 0:
		return address{}, errPadding
	case a.family == familyInet6:
	case a.family == familyInet && zero(b[4:12]) && zero(b[16:28]):
	case a.family == familyNone && zero(b):
	default:
		return address{}, errAddress
	}
	return a, nil
}

func appendHeader(b []byte, length int, o op, flags uint16, id, value uint32) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(length))
	b = le.AppendUint16(b, uint16(o))
	b = le.AppendUint16(b, flags)
	b = le.AppendUint32(b, id)
	return le.AppendUint32(b, value)
}

func appendAddress(b []byte, a *address) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, a.family)
	b = le.AppendUint16(b, a.port)
	b = le.AppendUint32(b, a.scope)
	b = le.AppendUint32(b, a.flowinfo)
	b = append(b, a.ip[:]...)
	return le.AppendUint32(b, 0)
}

// appendReply appends the reply to a request: errno, the socket's addresses, and
// what GETSOCKOPT has found.
func appendReply(b []byte, o op, flags uint16, id, errno uint32, local, peer *address, data []byte) []byte {
	b = appendHeader(b, headerSize+2*addressSize+len(data), o|opReply, flags, id, errno)
	b = appendAddress(b, local)
	b = appendAddress(b, peer)
	return append(b, data...)
}

// appendEvent appends an ACCEPT or ERROR.
func appendEvent(b []byte, o op, flags uint16, id, value uint32, local, peer *address) []byte {
	b = appendHeader(b, headerSize+2*addressSize, o, flags, id, value)
	b = appendAddress(b, local)
	return appendAddress(b, peer)
}

// appendDataHead appends a DATA message but for its payload of n bytes.
func appendDataHead(b []byte, id uint32, remote, local *address, tos, ttl uint32, n int) []byte {
	b = appendHeader(b, dataHead+n, opData, 0, id, 0)
	b = appendAddress(b, remote)
	b = appendAddress(b, local)
	b = binary.LittleEndian.AppendUint32(b, tos)
	return binary.LittleEndian.AppendUint32(b, ttl)
}
