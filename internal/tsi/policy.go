package tsi

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// Policy says what the guest's sockets may reach. A nil *Policy allows
// everything.
type Policy struct {
	spec.Network

	// HostNamespace: the network namespace is the host's own, in which loopback
	// is not the container's.
	HostNamespace bool

	// Resolvers are the name servers the engine gave the container. Their DNS
	// ports can be reached even where what they are next to cannot.
	Resolvers []netip.Addr
}

// class is a class of addresses.
type class uint8

const (
	classOther class = iota
	classLoopback
	classLinkLocal // and the metadata services of clouds
)

// metadata are the addresses that clouds serve credentials at, beside the
// link-local ones.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("fd00:ec2::254"):   true, // EC2
	netip.MustParseAddr("fd00:ec2::23"):    true, // EKS
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	compatible  = netip.MustParsePrefix("::/96")        // IPv4-compatible, deprecated
	nat64       = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour   = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// embedded has the IPv4 address that a, which is not IPv4-mapped, stands for on
// the other side of a translator or tunnel.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case a.Is4() || a == netip.IPv6Unspecified() || a == netip.IPv6Loopback():
		return netip.Addr{}, false
	case compatible.Contains(a), nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:])), true
	}
	return netip.Addr{}, false
}

// classify has the class of a, which is not IPv4-mapped.
func classify(a netip.Addr) class {
	switch {
	case a.IsLoopback() || a.IsUnspecified() || thisNetwork.Contains(a):
		return classLoopback
	case a.IsLinkLocalUnicast() || metadata[a]:
		return classLinkLocal
	}
	if v4, ok := embedded(a); ok {
		return classify(v4)
	}
	return classOther
}

// isLoopback reports whether a socket that talks to a talks to its own namespace
// over the loopback device.
func isLoopback(a netip.Addr) bool { return classify(a.Unmap()) == classLoopback }

// loopback says what of loopback can be reached.
func (p *Policy) loopback() spec.Reach {
	r := p.Loopback
	if r.Access == spec.AccessDefault && !p.HostNamespace {
		r.Access = spec.AccessAllow
	}
	return r
}

// keepsInside reports whether a socket bound to a is the guest's own: on a
// loopback device that is not for it.
func (p *Policy) keepsInside(a *address) bool {
	return p != nil && a.addr().Unmap().IsLoopback() && p.loopback().Access != spec.AccessAllow
}

// permits decides about a destination: 0, ECONNREFUSED as if nobody were there,
// or EPERM.
func (p *Policy) permits(protocol int, a *address) unix.Errno {
	if p == nil || a.family == familyNone {
		return 0
	}
	ip := a.addr().Unmap()
	inner, hasInner := embedded(ip)
	if matches(p.Deny, protocol, ip, a.port) || hasInner && matches(p.Deny, protocol, inner, a.port) {
		return unix.EPERM
	}
	var reach spec.Reach
	refusal := unix.EPERM
	switch classify(ip) {
	case classLoopback:
		reach, refusal = p.loopback(), unix.ECONNREFUSED
	case classLinkLocal:
		reach = p.LinkLocal
	default:
		if len(p.Allow) > 0 && !matches(p.Allow, protocol, ip, a.port) {
			return unix.EPERM
		}
		return 0
	}
	switch {
	case reach.Access == spec.AccessAllow, matches(reach.Rules, protocol, ip, a.port):
		return 0
	case reach.Access == spec.AccessDefault && p.resolves(protocol, ip, a.port):
		return 0
	}
	return refusal
}

// resolves reports whether the destination is a name server's port.
func (p *Policy) resolves(protocol int, a netip.Addr, port uint16) bool {
	if port != 53 || (protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP) {
		return false
	}
	for _, r := range p.Resolvers {
		if r.WithZone("").Unmap() == a {
			return true
		}
	}
	return false
}

// matches reports whether one of the rules matches.
func matches(rules []spec.Rule, protocol int, a netip.Addr, port uint16) bool {
	for i := range rules {
		r := &rules[i]
		switch {
		case r.Protocol != "" && r.Protocol != protocolName(protocol):
		case r.Prefix.IsValid() && !r.Prefix.Contains(a):
		case r.First != 0 && (protocolName(protocol) == "icmp" || port < r.First || port > r.Last):
		default:
			return true
		}
	}
	return false
}

func protocolName(protocol int) string {
	switch protocol {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return "icmp"
}

// permits is Policy.permits for a socket; what is refused is counted and logged.
func (k *socket) permits(a *address) unix.Errno {
	s := k.srv
	errno := s.policy.permits(k.protocol, a)
	if errno != 0 {
		s.counters.refused.Add(1)
		s.log.Warn("tsi: refused by policy", "protocol", protocolName(k.protocol), "to", a.String())
	}
	return errno
}
