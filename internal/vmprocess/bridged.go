package vmprocess

import (
	"maps"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// IF_OPER_UP of linux/if.h.
const operUp = 6

// bareNetwork is what a new network namespace looks like whose loopback device
// is up. A template shows it, so that a clone has to change only what differs.
func bareNetwork() *protocol.Network {
	return &protocol.Network{
		Links: []*protocol.Link{{
			Index: 1, Name: "lo", Mtu: 65536, Address: make([]byte, 6),
			Flags: unix.IFF_UP | unix.IFF_LOOPBACK, Carrier: true,
		}},
		Addresses: []*protocol.Address{
			{Link: 1, Local: []byte{127, 0, 0, 1}, PrefixLength: 8, Label: "lo", Scope: unix.RT_SCOPE_HOST},
			{Link: 1, Local: []byte{15: 1}, PrefixLength: 128, Scope: unix.RT_SCOPE_HOST},
		},
		Sysctls: maps.Clone(defaultSysctls),
	}
}

// defaultSysctls are the values in a namespace where nobody has set any, but
// sandbox.PrepareNetwork.
var defaultSysctls = map[string]string{
	"net.core.somaxconn":                  "4096",
	"net.ipv4.ip_default_ttl":             "64",
	"net.ipv4.ip_local_port_range":        "32768\t60999",
	"net.ipv4.ip_nonlocal_bind":           "0",
	"net.ipv4.ip_unprivileged_port_start": "1024",
	"net.ipv4.ping_group_range":           "0\t0",
	"net.ipv6.bindv6only":                 "0",
	"net.ipv6.conf.all.disable_ipv6":      "0",
	"net.ipv6.conf.default.disable_ipv6":  "0",
	"net.ipv6.ip_nonlocal_bind":           "0",
}

// bridgedNetwork is what engines make of it: a device on a bridge, with the
// bridge as gateway.
func bridgedNetwork() *protocol.Network {
	n := bareNetwork()
	local, bridge := []byte{10, 88, 0, 2}, []byte{10, 88, 0, 1}
	linkLocal := []byte{0: 0xfe, 1: 0x80, 8: 0x28, 11: 0xff, 12: 0xfe, 15: 2}
	hop := func(gateway []byte) []*protocol.NextHop {
		return []*protocol.NextHop{{Link: 2, Gateway: gateway}}
	}
	n.Links = append(n.Links, &protocol.Link{
		Index: 2, Name: "eth0", Mtu: 1500, Address: []byte{0x2a, 0, 0, 0, 0, 2},
		Flags: unix.IFF_UP | unix.IFF_MULTICAST, Carrier: true, Operstate: operUp,
	})
	n.Addresses = append(n.Addresses,
		&protocol.Address{Link: 2, Local: local, PrefixLength: 16, Broadcast: []byte{10, 88, 255, 255}, Label: "eth0"},
		&protocol.Address{Link: 2, Local: linkLocal, PrefixLength: 64, Scope: unix.RT_SCOPE_LINK},
	)
	n.Routes = []*protocol.Route{
		{Family: unix.AF_INET, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT, Hops: hop(bridge)},
		{Family: unix.AF_INET, Destination: []byte{10, 88, 0, 0}, PrefixLength: 16, Type: unix.RTN_UNICAST,
			Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_KERNEL, Source: local, Hops: hop(nil)},
		{Family: unix.AF_INET6, Destination: []byte{0: 0xfe, 1: 0x80, 15: 0}, PrefixLength: 64, Type: unix.RTN_UNICAST,
			Protocol: unix.RTPROT_KERNEL, Metric: 256, Hops: hop(nil)},
	}
	return n
}
