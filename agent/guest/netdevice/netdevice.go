// Package netdevice gives the guest devices, addresses and routes that look
// like those of the container's network namespace. Nothing is ever sent through
// them: sockets are the namespace's own, and what remains, such as a packet
// socket, talks to a dummy.
package netdevice

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"runv.dev/runv/agent/protocol"
)

// Mirror is what the guest shows of a namespace. It changes what it has made
// itself and leaves alone what programs of the guest have. It is for one
// goroutine at a time.
type Mirror struct {
	have    *protocol.Network
	indexes map[uint32]uint32 // of the namespace's links: those in the guest
}

// maxWarnings bounds the warnings of one change.
const maxWarnings = 32

// set is what a list has, by the encoding of the messages.
type set map[string]bool

func setOf[M proto.Message](list []M) set {
	s := make(set, len(list))
	for _, m := range list {
		s[key(m)] = true
	}
	return s
}

// key is the same for equal messages, as long as they have no maps.
func key(m proto.Message) string {
	data, err := proto.Marshal(m)
	if err != nil {
		return "" // a text that is no UTF-8: Check lets none pass
	}
	return string(data)
}

// change is one call of Set.
type change struct {
	*Mirror
	socket   *socket
	want     *protocol.Network
	warnings []string
}

// Set makes the guest look like n, as far as its kernel does; warnings say
// where not. Only a malformed n is an error, or no kernel to talk to.
func (m *Mirror) Set(n *protocol.Network) (warnings []string, err error) {
	if err := n.Check(); err != nil {
		return nil, err
	}
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	if m.have == nil {
		m.have, m.indexes = &protocol.Network{}, make(map[uint32]uint32)
	}
	c := &change{Mirror: m, socket: s, want: n}
	c.sysctls()
	c.dropRoutes()
	c.links()
	// With a device's last address all of its routes go, those too that the
	// namespace has kept: so the new ones come first. Once more if others may
	// have gone with the old ones.
	c.addAddresses()
	if c.dropAddresses() {
		c.addAddresses()
	}
	c.addRoutes()
	m.have = n
	return c.warnings, nil
}

func (c *change) warn(format string, args ...any) {
	switch {
	case len(c.warnings) < maxWarnings:
		c.warnings = append(c.warnings, fmt.Sprintf("network: "+format, args...))
	case len(c.warnings) == maxWarnings:
		c.warnings = append(c.warnings, "network: more warnings are left out")
	}
}

// try carries a request out; a failure other than those expected is a warning.
func (c *change) try(r request, expected []error, format string, args ...any) bool {
	err := c.socket.do(r)
	if err == nil {
		return true
	}
	if !slices.ContainsFunc(expected, func(e error) bool { return errors.Is(err, e) }) {
		c.warn("%s: %v", fmt.Sprintf(format, args...), err)
	}
	return false
}

// What it means that something is there, or gone, already.
var (
	exists = []error{unix.EEXIST}
	gone   = []error{unix.ENODEV, unix.ESRCH, unix.EADDRNOTAVAIL, unix.ENOENT, unix.ENETDOWN, unix.ENETUNREACH}
)

func (c *change) sysctls() {
	for _, name := range protocol.NetworkSysctls {
		value, given := c.want.Sysctls[name]
		if given && c.have.Sysctls[name] != value {
			if err := setSysctl(strings.ReplaceAll(name, ".", "/"), value); err != nil {
				c.warn("%v", err)
			}
		}
	}
}

func setSysctl(file, value string) error {
	f, err := os.OpenFile("/proc/sys/"+file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// same tells whether a link stays the device it is.
func same(a, b *protocol.Link) bool {
	return a.Index == b.Index && a.Name == b.Name && (a.Flags^b.Flags)&unix.IFF_LOOPBACK == 0
}

func (c *change) links() {
	for _, old := range c.have.Links {
		index, made := c.indexes[old.Index]
		stays := slices.ContainsFunc(c.want.Links, func(l *protocol.Link) bool { return same(l, old) })
		if stays || !made {
			continue
		}
		if old.Flags&unix.IFF_LOOPBACK == 0 {
			c.try(deleteLink(index), gone, "remove %s", old.Name)
		}
		delete(c.indexes, old.Index)
	}
	for _, l := range c.want.Links {
		if _, made := c.indexes[l.Index]; !made && !c.make(l) {
			continue
		}
		i := slices.IndexFunc(c.have.Links, func(old *protocol.Link) bool { return same(l, old) })
		if i >= 0 && proto.Equal(c.have.Links[i], l) {
			continue
		}
		index := c.indexes[l.Index]
		c.try(setLink(l, index), nil, "set %s", l.Name)
		if l.Flags&unix.IFF_LOOPBACK == 0 && l.Flags&unix.IFF_UP != 0 && l.Operstate == operUp {
			c.try(setOperstate(index), nil, "set the state of %s", l.Name)
		}
	}
}

// make creates a device, with the index it has in the namespace unless that is
// taken.
func (c *change) make(l *protocol.Link) bool {
	if l.Flags&unix.IFF_LOOPBACK != 0 {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			c.warn("lo: %v", err)
			return false
		}
		c.indexes[l.Index] = uint32(lo.Index)
		return true
	}
	err := c.socket.do(createLink(l, l.Index))
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		first := err
		if err = c.socket.do(createLink(l, 0)); err == nil {
			c.warn("%s cannot have the index %d: %v", l.Name, l.Index, first)
		}
	}
	if err != nil {
		c.warn("make %s: %v", l.Name, err)
		return false
	}
	made, err := net.InterfaceByName(l.Name)
	if err != nil {
		c.warn("%s: %v", l.Name, err)
		return false
	}
	c.indexes[l.Index] = uint32(made.Index)
	c.quiet(l.Name)
	return true
}

// quietSysctls keep IPv6 from making up addresses and from asking around. The
// addresses come from the namespace.
var quietSysctls = []struct{ name, value string }{
	{"accept_ra", "0"},
	{"router_solicitations", "0"},
	{"autoconf", "0"},
	{"addr_gen_mode", "1"}, // IN6_ADDR_GEN_MODE_NONE
	{"dad_transmits", "0"},
}

func (c *change) quiet(name string) {
	dir := "net/ipv6/conf/" + name + "/"
	if _, err := os.Stat("/proc/sys/" + dir); err != nil {
		return // a kernel without IPv6
	}
	for _, s := range quietSysctls {
		if err := setSysctl(dir+s.name, s.value); err != nil {
			c.warn("%v", err)
		}
	}
}

// dropAddresses tells whether it has removed any.
func (c *change) dropAddresses() (dropped bool) {
	want := setOf(c.want.Addresses)
	for _, old := range c.have.Addresses {
		index, made := c.indexes[old.Link]
		if made && !want[key(old)] {
			if c.try(address(unix.RTM_DELADDR, 0, old, index), gone, "remove address %v", net.IP(old.Local)) {
				dropped = true
			}
		}
	}
	return dropped
}

// addAddresses adds all that are missing: with an address, or a link, others
// may have gone. IPv6 lists the latest first.
func (c *change) addAddresses() {
	list := slices.Clone(c.want.Addresses)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b *protocol.Address) int { return len(a.Local) - len(b.Local) })
	v4 := slices.IndexFunc(list, func(a *protocol.Address) bool { return len(a.Local) == 16 })
	if v4 < 0 {
		v4 = len(list)
	}
	slices.Reverse(list[:v4])
	for _, a := range list {
		index, made := c.indexes[a.Link]
		if !made {
			continue
		}
		added := c.try(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a, index), exists, "add address %v", net.IP(a.Local))
		if added {
			c.dropPrefixRoute(a, index)
		}
	}
}

// dropPrefixRoute removes the route that came with an address unless the
// namespace has it.
func (c *change) dropPrefixRoute(a *protocol.Address, index uint32) {
	base := a.Local
	if len(a.Peer) > 0 {
		base = a.Peer
	}
	bits := int(a.PrefixLength)
	prefix := []byte(net.IP(base).Mask(net.CIDRMask(bits, len(base)*8)))
	if a.Flags&unix.IFA_F_NOPREFIXROUTE != 0 || bits == len(base)*8 && len(a.Peer) == 0 {
		return
	}
	wanted := slices.ContainsFunc(c.want.Routes, func(r *protocol.Route) bool {
		return bytes.Equal(r.Destination, prefix) && int(r.PrefixLength) == bits &&
			slices.ContainsFunc(r.Hops, func(h *protocol.NextHop) bool { return h.Link == a.Link })
	})
	if wanted {
		return
	}
	r := &protocol.Route{
		Family: uint32(familyOf(base)), Destination: prefix, PrefixLength: uint32(bits),
		Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_NOWHERE, Protocol: unix.RTPROT_KERNEL,
		Hops: []*protocol.NextHop{{Link: a.Link}},
	}
	c.try(route(unix.RTM_DELROUTE, 0, r, func(uint32) uint32 { return index }), gone, "remove route to %v", net.IP(prefix))
}

func (c *change) index(link uint32) uint32 { return c.indexes[link] }

// reachable tells whether the guest has all links of a route.
func (c *change) reachable(r *protocol.Route) bool {
	return !slices.ContainsFunc(r.Hops, func(h *protocol.NextHop) bool { return c.indexes[h.Link] == 0 })
}

func (c *change) dropRoutes() {
	want := setOf(c.want.Routes)
	for _, old := range c.have.Routes {
		if !want[key(old)] && c.reachable(old) {
			c.try(route(unix.RTM_DELROUTE, 0, old, c.index), gone, "remove route to %s", destination(old))
		}
	}
}

// addRoutes adds all that are missing: with an address, or a link, others may
// have gone. A gateway has to be on a link that is known already.
func (c *change) addRoutes() {
	list := slices.Clone(c.want.Routes)
	slices.SortStableFunc(list, func(a, b *protocol.Route) int { return gateways(a) - gateways(b) })
	for _, r := range list {
		if !c.reachable(r) {
			continue
		}
		flags := uint16(unix.NLM_F_CREATE)
		if r.Family == unix.AF_INET {
			flags |= unix.NLM_F_APPEND
		}
		c.try(route(unix.RTM_NEWROUTE, flags, r, c.index), exists, "add route to %s", destination(r))
	}
}

// gateways is 1 if a route needs another to reach its gateway, else 0.
func gateways(r *protocol.Route) int {
	if slices.ContainsFunc(r.Hops, func(h *protocol.NextHop) bool { return len(h.Gateway) > 0 }) {
		return 1
	}
	return 0
}

func destination(r *protocol.Route) string {
	if len(r.Destination) == 0 {
		return "default"
	}
	return fmt.Sprintf("%v/%d", net.IP(r.Destination), r.PrefixLength)
}
