package protocol

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of a Network. A namespace that has more is mirrored in part.
const (
	MaxLinks     = 512
	MaxAddresses = 1024
	MaxRoutes    = 2048
	// MaxHops bounds the next hops of one route.
	MaxHops = 64
	// MaxLinkName is the most bytes a device's name has, IFNAMSIZ less the NUL.
	MaxLinkName = 15
	// MaxSysctl bounds the value of a sysctl in bytes.
	MaxSysctl = 256
)

// NetworkSysctls are what a program sees or feels of the sockets of the
// namespace, and the guest therefore has as well. The guest writes no other.
var NetworkSysctls = []string{
	"net.core.somaxconn",
	"net.ipv4.ip_default_ttl",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_nonlocal_bind",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range",
	"net.ipv6.bindv6only",
	"net.ipv6.conf.all.disable_ipv6",
	"net.ipv6.conf.default.disable_ipv6",
	"net.ipv6.ip_nonlocal_bind",
}

// Values of struct fields of rtnetlink(7) which are the same on every
// architecture.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// Check tells whether n keeps the bounds and makes sense by itself.
func (n *Network) Check() error {
	switch {
	case len(n.GetLinks()) > MaxLinks:
		return fmt.Errorf("network: %d links, at most %d", len(n.Links), MaxLinks)
	case len(n.GetAddresses()) > MaxAddresses:
		return fmt.Errorf("network: %d addresses, at most %d", len(n.Addresses), MaxAddresses)
	case len(n.GetRoutes()) > MaxRoutes:
		return fmt.Errorf("network: %d routes, at most %d", len(n.Routes), MaxRoutes)
	case len(n.GetSysctls()) > len(NetworkSysctls):
		return fmt.Errorf("network: %d sysctls, at most %d", len(n.Sysctls), len(NetworkSysctls))
	}
	links, names := make(map[uint32]bool), make(map[string]bool)
	for _, l := range n.GetLinks() {
		if err := l.check(); err != nil {
			return fmt.Errorf("network: link %d: %w", l.GetIndex(), err)
		}
		if links[l.Index] || names[l.Name] {
			return fmt.Errorf("network: link %d (%s) twice", l.Index, l.Name)
		}
		links[l.Index], names[l.Name] = true, true
	}
	for _, a := range n.GetAddresses() {
		if err := a.check(); err != nil {
			return fmt.Errorf("network: address %x: %w", a.GetLocal(), err)
		}
		if !links[a.Link] {
			return fmt.Errorf("network: address %x is on link %d, which is not there", a.Local, a.Link)
		}
	}
	for _, r := range n.GetRoutes() {
		if err := r.check(links); err != nil {
			return fmt.Errorf("network: route to %x: %w", r.GetDestination(), err)
		}
	}
	for name, value := range n.GetSysctls() {
		if len(value) > MaxSysctl || strings.ContainsAny(value, "\x00\n") {
			return fmt.Errorf("network: sysctl %.64q: malformed value", name)
		}
	}
	return nil
}

func (l *Link) check() error {
	if l == nil || l.Index == 0 || l.Index > 1<<31-1 {
		return fmt.Errorf("no interface index")
	}
	if err := CheckLinkName(l.Name); err != nil {
		return err
	}
	if len(l.Address) != 0 && len(l.Address) != 6 {
		return fmt.Errorf("a hardware address of %d bytes", len(l.Address))
	}
	if l.Operstate > 255 {
		return fmt.Errorf("operational state %d", l.Operstate)
	}
	return nil
}

// CheckLinkName tells whether a network device can have this name. It then is
// one component of a path as well.
func CheckLinkName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == 0x7f }
	if name == "" || !utf8.ValidString(name) || len(name) > MaxLinkName || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%.32q is not the name of a network device", name)
	}
	return nil
}

func (a *Address) check() error {
	if a == nil {
		return fmt.Errorf("missing")
	}
	size := len(a.Local)
	switch {
	case size != 4 && size != 16:
		return fmt.Errorf("an address of %d bytes", size)
	case len(a.Peer) != 0 && len(a.Peer) != size, len(a.Broadcast) != 0 && len(a.Broadcast) != size:
		return fmt.Errorf("addresses of several families")
	case a.PrefixLength > uint32(size)*8:
		return fmt.Errorf("a prefix of %d bits", a.PrefixLength)
	case a.Scope > 255:
		return fmt.Errorf("scope %d", a.Scope)
	case len(a.Label) > MaxLinkName || strings.IndexByte(a.Label, 0) >= 0 || !utf8.ValidString(a.Label):
		return fmt.Errorf("label %.32q", a.Label)
	}
	return nil
}

func (r *Route) check(links map[uint32]bool) error {
	size := 4
	switch {
	case r == nil:
		return fmt.Errorf("missing")
	case r.Family == familyIPv6:
		size = 16
	case r.Family != familyIPv4:
		return fmt.Errorf("address family %d", r.Family)
	}
	switch {
	case len(r.Destination) != 0 && len(r.Destination) != size, len(r.Source) != 0 && len(r.Source) != size:
		return fmt.Errorf("addresses of several families")
	case r.PrefixLength > uint32(size)*8 || r.PrefixLength > 0 && len(r.Destination) == 0:
		return fmt.Errorf("a prefix of %d bits", r.PrefixLength)
	case max(r.Type, r.Scope, r.Protocol, r.Tos, r.Preference) > 255:
		return fmt.Errorf("a property is out of range")
	case len(r.Hops) > MaxHops:
		return fmt.Errorf("%d next hops, at most %d", len(r.Hops), MaxHops)
	}
	for _, hop := range r.Hops {
		switch {
		case !links[hop.GetLink()]:
			return fmt.Errorf("link %d is not there", hop.GetLink())
		case len(hop.Gateway) != 0 && len(hop.Gateway) != 4 && len(hop.Gateway) != 16:
			return fmt.Errorf("a gateway of %d bytes", len(hop.Gateway))
		case max(hop.Flags, hop.Weight) > 255:
			return fmt.Errorf("a property of a next hop is out of range")
		}
	}
	return nil
}
