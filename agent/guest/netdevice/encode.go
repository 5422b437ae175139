package netdevice

import (
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// settable are the flags of a link that the mirror sets.
const settable = unix.IFF_UP | unix.IFF_NOARP | unix.IFF_MULTICAST

// linkHeader is struct ifinfomsg.
func linkHeader(index, flags, change uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = native.AppendUint32(b, index)
	b = native.AppendUint32(b, flags)
	return native.AppendUint32(b, change)
}

// createLink makes a dummy device, which is down. Index 0 lets the kernel choose.
func createLink(l *protocol.Link, index uint32) request {
	r := newRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkHeader(index, 0, 0))
	r.text(unix.IFLA_IFNAME, l.Name)
	if len(l.Address) > 0 {
		r.bytes(unix.IFLA_ADDRESS, l.Address)
	}
	r.bytes(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("dummy\x00")))
	return r
}

// setLink changes what of a link may differ.
func setLink(l *protocol.Link, index uint32) request {
	flags, change := l.Flags&settable, uint32(settable)
	loopback := l.Flags&unix.IFF_LOOPBACK != 0
	if loopback {
		// The guest's own programs count on it.
		flags, change = unix.IFF_UP, unix.IFF_UP
	}
	r := newRequest(unix.RTM_NEWLINK, 0, linkHeader(index, flags, change))
	if l.Mtu != 0 {
		r.number(unix.IFLA_MTU, l.Mtu)
	}
	if loopback {
		return r
	}
	if len(l.Address) > 0 {
		r.bytes(unix.IFLA_ADDRESS, l.Address)
	}
	carrier := uint32(0)
	if l.Carrier {
		carrier = 1
	}
	r.byte(unix.IFLA_CARRIER, carrier)
	return r
}

// operUp is IF_OPER_UP.
const operUp = 6

// setOperstate says that a link is operational, where the kernel cannot know.
func setOperstate(index uint32) request {
	r := newRequest(unix.RTM_NEWLINK, 0, linkHeader(index, 0, 0))
	r.byte(unix.IFLA_OPERSTATE, operUp)
	return r
}

func deleteLink(index uint32) request {
	return newRequest(unix.RTM_DELLINK, 0, linkHeader(index, 0, 0))
}

func familyOf(address []byte) byte {
	if len(address) == 4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// forever is INFINITY_LIFE_TIME.
const forever = 0xffffffff

// address adds or deletes an address.
func address(kind, flags uint16, a *protocol.Address, index uint32) request {
	header := []byte{familyOf(a.Local), byte(a.PrefixLength), 0, byte(a.Scope)}
	r := newRequest(kind, flags, native.AppendUint32(header, index))
	r.bytes(unix.IFA_LOCAL, a.Local)
	if len(a.Peer) > 0 {
		r.bytes(unix.IFA_ADDRESS, a.Peer)
	} else {
		r.bytes(unix.IFA_ADDRESS, a.Local)
	}
	if kind != unix.RTM_NEWADDR {
		return r
	}
	if len(a.Broadcast) > 0 {
		r.bytes(unix.IFA_BROADCAST, a.Broadcast)
	}
	if a.Label != "" {
		r.text(unix.IFA_LABEL, a.Label)
	}
	set := a.Flags & (unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_HOMEADDRESS)
	if len(a.Local) == 16 {
		// The namespace has found it free.
		set |= unix.IFA_F_NODAD
	}
	r.number(unix.IFA_FLAGS, set)
	preferred := uint32(forever)
	if a.Flags&unix.IFA_F_DEPRECATED != 0 {
		preferred = 0
	}
	cache := native.AppendUint32(nil, preferred)
	cache = native.AppendUint32(cache, forever)
	r.bytes(unix.IFA_CACHEINFO, append(cache, make([]byte, 8)...))
	return r
}

// route adds or deletes a route. index translates the links of the namespace.
func route(kind, flags uint16, rt *protocol.Route, index func(uint32) uint32) request {
	header := []byte{
		byte(rt.Family), byte(rt.PrefixLength), 0, byte(rt.Tos),
		unix.RT_TABLE_MAIN, byte(rt.Protocol), byte(rt.Scope), byte(rt.Type),
	}
	single := len(rt.Hops) == 1
	rtFlags := uint32(0)
	if single {
		rtFlags = rt.Hops[0].Flags & unix.RTNH_F_ONLINK
	}
	r := newRequest(kind, flags, native.AppendUint32(header, rtFlags))
	if len(rt.Destination) > 0 {
		r.bytes(unix.RTA_DST, rt.Destination)
	}
	if rt.Metric != 0 {
		r.number(unix.RTA_PRIORITY, rt.Metric)
	}
	if len(rt.Source) > 0 {
		r.bytes(unix.RTA_PREFSRC, rt.Source)
	}
	if rt.Mtu != 0 {
		r.bytes(unix.RTA_METRICS|unix.NLA_F_NESTED, appendAttribute(nil, unix.RTAX_MTU, native.AppendUint32(nil, rt.Mtu)))
	}
	if rt.Family == unix.AF_INET6 && rt.Preference != 0 {
		r.byte(unix.RTA_PREF, rt.Preference)
	}
	if single {
		r.number(unix.RTA_OIF, index(rt.Hops[0].Link))
		r = appendGateway(r, rt.Family, rt.Hops[0].Gateway)
		return r
	}
	var hops []byte
	for _, hop := range rt.Hops {
		gateway := appendGateway(nil, rt.Family, hop.Gateway)
		hops = native.AppendUint16(hops, uint16(unix.SizeofRtNexthop+len(gateway)))
		hops = append(hops, byte(hop.Flags&unix.RTNH_F_ONLINK), byte(hop.Weight))
		hops = native.AppendUint32(hops, index(hop.Link))
		hops = append(hops, gateway...)
	}
	if len(hops) > 0 {
		r.bytes(unix.RTA_MULTIPATH, hops)
	}
	return r
}

func appendGateway(b []byte, family uint32, gateway []byte) []byte {
	switch {
	case len(gateway) == 0:
		return b
	case uint32(familyOf(gateway)) == family:
		return appendAttribute(b, unix.RTA_GATEWAY, gateway)
	}
	// struct rtvia.
	via := native.AppendUint16(nil, uint16(familyOf(gateway)))
	return appendAttribute(b, unix.RTA_VIA, append(via, gateway...))
}
