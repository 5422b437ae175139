package tsi

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// cmsgHead is the size of struct cmsghdr, and what messages are aligned to.
const (
	cmsgHead  = 16
	cmsgAlign = 8
)

// Sizes of in_pktinfo, in6_pktinfo and sock_extended_err.
const (
	pktinfoSize     = 12
	pktinfo6Size    = 20
	extendedErrSize = 16
)

// maxControl has room for the control messages of a datagram.
const maxControl = 256

// ancillary is what control messages say about a datagram.
type ancillary struct {
	local    address // without a port
	tos, ttl uint32
	err      unix.Errno // of an error queue
	icmp     uint16     // of an error queue: type and code, 0 if no ICMP message told it
}

// parseControl takes control messages from the kernel apart.
func parseControl(b []byte) ancillary {
	ne := binary.NativeEndian
	a := ancillary{tos: notGiven, ttl: notGiven}
	for len(b) >= cmsgHead {
		n := ne.Uint64(b)
		if n < cmsgHead || n > uint64(len(b)) {
			break
		}
		level, typ, data := ne.Uint32(b[8:]), ne.Uint32(b[12:]), b[cmsgHead:n]
		switch (optionKey{level, typ}) {
		case optionKey{unix.SOL_IP, unix.IP_PKTINFO}:
			if len(data) >= pktinfoSize && a.local.family == familyNone {
				a.local = address{family: familyInet}
				copy(a.local.ip[:4], data[8:12]) // the header's destination
			}
		case optionKey{unix.SOL_IPV6, unix.IPV6_PKTINFO}:
			if len(data) >= pktinfo6Size {
				a.local = address{family: familyInet6, scope: ne.Uint32(data[16:])}
				copy(a.local.ip[:], data)
			}
		case optionKey{unix.SOL_IP, unix.IP_TOS}:
			if len(data) >= 1 {
				a.tos = uint32(data[0])
			}
		case optionKey{unix.SOL_IPV6, unix.IPV6_TCLASS}:
			if len(data) >= 4 {
				a.tos = ne.Uint32(data) & 0xff
			}
		case optionKey{unix.SOL_IP, unix.IP_TTL}, optionKey{unix.SOL_IPV6, unix.IPV6_HOPLIMIT}:
			if len(data) >= 4 {
				a.ttl = ne.Uint32(data) & 0xff
			}
		case optionKey{unix.SOL_IP, unix.IP_RECVERR}, optionKey{unix.SOL_IPV6, unix.IPV6_RECVERR}:
			if len(data) >= extendedErrSize {
				a.err = unix.Errno(ne.Uint32(data))
				if origin := data[4]; origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6 {
					a.icmp = uint16(data[5])<<8 | uint16(data[6])
				}
			}
		}
		b = b[min(uint64(len(b)), (n+cmsgAlign-1)&^(cmsgAlign-1)):]
	}
	return a
}

func appendCmsg(b []byte, level, typ uint32, data []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint64(b, uint64(cmsgHead+len(data)))
	b = ne.AppendUint32(b, level)
	b = ne.AppendUint32(b, typ)
	b = append(b, data...)
	for len(b)%cmsgAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// appendControl appends the control messages for a datagram that is sent from
// the address local, to an IPv4 address if v4 is set.
func appendControl(b []byte, local *address, v4 bool, tos, ttl uint32) []byte {
	ne := binary.NativeEndian
	switch local.family {
	case familyInet:
		var info [pktinfoSize]byte
		copy(info[4:], local.ip[:4]) // ipi_spec_dst
		b = appendCmsg(b, unix.SOL_IP, unix.IP_PKTINFO, info[:])
	case familyInet6:
		var info [pktinfo6Size]byte
		copy(info[:], local.ip[:])
		ne.PutUint32(info[16:], local.scope)
		b = appendCmsg(b, unix.SOL_IPV6, unix.IPV6_PKTINFO, info[:])
	}
	level, tosName, ttlName := uint32(unix.SOL_IPV6), uint32(unix.IPV6_TCLASS), uint32(unix.IPV6_HOPLIMIT)
	if v4 {
		level, tosName, ttlName = unix.SOL_IP, unix.IP_TOS, unix.IP_TTL
	}
	if tos != notGiven {
		b = appendCmsg(b, level, tosName, ne.AppendUint32(nil, tos))
	}
	if ttl != notGiven {
		b = appendCmsg(b, level, ttlName, ne.AppendUint32(nil, ttl))
	}
	return b
}
