package netmirror

import (
	"bytes"
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// What of flags is mirrored; the rest comes by itself or concerns the device
// alone.
const (
	linkFlags    = unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_NOARP | unix.IFF_MULTICAST
	addressFlags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_DEPRECATED | unix.IFA_F_HOMEADDRESS
	hopFlags     = unix.RTNH_F_ONLINK
)

// attributes are the attributes in data, nested ones included as bytes. What is
// malformed ends them.
func attributes(data []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(data))
			kind := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if size < unix.SizeofRtAttr || size > len(data) || !yield(kind, data[unix.SizeofRtAttr:size]) {
				return
			}
			data = data[min(align(size), len(data)):]
		}
	}
}

// number is an attribute of one, two or four bytes; 0 if it is none.
func number(value []byte) uint32 {
	switch len(value) {
	case 1:
		return uint32(value[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(value))
	case 4:
		return binary.NativeEndian.Uint32(value)
	}
	return 0
}

func text(value []byte) string {
	name, _, _ := bytes.Cut(value, []byte{0})
	return string(name)
}

// decodeLink reads RTM_NEWLINK. It has nil for what no guest can have.
func decodeLink(body []byte) *protocol.Link {
	if len(body) < unix.SizeofIfInfomsg {
		return nil
	}
	native := binary.NativeEndian
	l := &protocol.Link{
		Index:   native.Uint32(body[4:]),
		Flags:   native.Uint32(body[8:]) & linkFlags,
		Carrier: true,
	}
	for kind, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(value)
		case unix.IFLA_MTU:
			l.Mtu = number(value)
		case unix.IFLA_ADDRESS:
			if len(value) == 6 {
				l.Address = bytes.Clone(value)
			}
		case unix.IFLA_CARRIER:
			l.Carrier = number(value) != 0
		case unix.IFLA_OPERSTATE:
			l.Operstate = number(value)
		}
	}
	return l
}

// decodeAddress reads RTM_NEWADDR. It has nil for what no socket can use.
func decodeAddress(body []byte) *protocol.Address {
	if len(body) < unix.SizeofIfAddrmsg {
		return nil
	}
	a := &protocol.Address{
		PrefixLength: uint32(body[1]),
		Flags:        uint32(body[2]),
		Scope:        uint32(body[3]),
		Link:         binary.NativeEndian.Uint32(body[4:]),
	}
	size := addressSize(body[0])
	var address, local []byte
	for kind, value := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_ADDRESS:
			address = bytes.Clone(value)
		case unix.IFA_LOCAL:
			local = bytes.Clone(value)
		case unix.IFA_BROADCAST:
			a.Broadcast = bytes.Clone(value)
		case unix.IFA_LABEL:
			a.Label = text(value)
		case unix.IFA_FLAGS:
			a.Flags = number(value)
		}
	}
	a.Local = address
	if local != nil {
		a.Local = local
		if !bytes.Equal(local, address) {
			a.Peer = address
		}
	}
	if size == 0 || len(a.Local) != size || a.Flags&unix.IFA_F_DADFAILED != 0 {
		return nil
	}
	a.Flags &= addressFlags
	return a
}

func addressSize(family byte) int {
	switch family {
	case unix.AF_INET:
		return 4
	case unix.AF_INET6:
		return 16
	}
	return 0
}

// decodeRoute reads RTM_NEWROUTE. It has nil for routes outside the main table
// and of kinds that do not decide where a socket's packets go.
func decodeRoute(body []byte) *protocol.Route {
	if len(body) < unix.SizeofRtMsg {
		return nil
	}
	native := binary.NativeEndian
	r := &protocol.Route{
		Family:       uint32(body[0]),
		PrefixLength: uint32(body[1]),
		Tos:          uint32(body[3]),
		Protocol:     uint32(body[5]),
		Scope:        uint32(body[6]),
		Type:         uint32(body[7]),
	}
	flags := native.Uint32(body[8:])
	table := uint32(body[4])
	hop := &protocol.NextHop{Flags: flags & hopFlags}
	for kind, value := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_TABLE:
			table = number(value)
		case unix.RTA_DST:
			r.Destination = bytes.Clone(value)
		case unix.RTA_PREFSRC:
			r.Source = bytes.Clone(value)
		case unix.RTA_PRIORITY:
			r.Metric = number(value)
		case unix.RTA_PREF:
			r.Preference = number(value)
		case unix.RTA_METRICS:
			for metric, value := range attributes(value) {
				if metric == unix.RTAX_MTU {
					r.Mtu = number(value)
				}
			}
		case unix.RTA_MULTIPATH:
			r.Hops = decodeHops(value)
		case unix.RTA_OIF:
			hop.Link = number(value)
		default:
			decodeGateway(hop, kind, value)
		}
	}
	forwarding := r.Type == unix.RTN_UNICAST
	if forwarding && hop.Link != 0 && len(r.Hops) == 0 {
		r.Hops = []*protocol.NextHop{hop}
	}
	switch {
	case addressSize(body[0]) == 0, table != unix.RT_TABLE_MAIN, flags&unix.RTM_F_CLONED != 0, body[2] != 0:
		return nil
	case forwarding:
		if len(r.Hops) == 0 || len(r.Hops) > protocol.MaxHops {
			return nil
		}
	case r.Type != unix.RTN_BLACKHOLE && r.Type != unix.RTN_UNREACHABLE && r.Type != unix.RTN_PROHIBIT && r.Type != unix.RTN_THROW:
		return nil
	default:
		r.Hops = nil
	}
	return r
}

// decodeGateway reads the attributes that say who takes the packets.
func decodeGateway(hop *protocol.NextHop, kind uint16, value []byte) {
	switch {
	case kind == unix.RTA_GATEWAY:
		hop.Gateway = bytes.Clone(value)
	case kind == unix.RTA_VIA && len(value) > 2:
		// struct rtvia: a family and an address.
		hop.Gateway = bytes.Clone(value[2:])
	}
}

// decodeHops reads RTA_MULTIPATH.
func decodeHops(data []byte) []*protocol.NextHop {
	var hops []*protocol.NextHop
	for len(data) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofRtNexthop || size > len(data) {
			break
		}
		hop := &protocol.NextHop{
			Flags:  uint32(data[2]) & hopFlags,
			Weight: uint32(data[3]),
			Link:   binary.NativeEndian.Uint32(data[4:]),
		}
		for kind, value := range attributes(data[unix.SizeofRtNexthop:size]) {
			decodeGateway(hop, kind, value)
		}
		hops = append(hops, hop)
		data = data[min(align(size), len(data)):]
	}
	return hops
}
