package protocol

import (
	"strings"
	"testing"
)

func TestNetworkCheck(t *testing.T) {
	good := func() *Network {
		return &Network{
			Links:     []*Link{{Index: 1, Name: "lo", Flags: 8}, {Index: 2, Name: "eth0", Address: make([]byte, 6)}},
			Addresses: []*Address{{Link: 2, Local: []byte{10, 0, 0, 1}, PrefixLength: 24}},
			Routes: []*Route{{Family: familyIPv4, Type: 1, Hops: []*NextHop{
				{Link: 2, Gateway: []byte{10, 0, 0, 2}},
			}}},
			Sysctls: map[string]string{NetworkSysctls[0]: "1"},
		}
	}
	for _, test := range []struct {
		name string
		edit func(*Network)
		want string // part of the error; empty: none
	}{
		{"as it is", func(*Network) {}, ""},
		{"index", func(n *Network) { n.Links[1].Index = 0 }, "no interface index"},
		{"no link", func(n *Network) { n.Links[1] = nil }, "no interface index"},
		{"same index", func(n *Network) { n.Links[1].Index = 1 }, "twice"},
		{"same name", func(n *Network) { n.Links[1].Name = "lo" }, "twice"},
		{"path", func(n *Network) { n.Links[1].Name = "../x" }, "not the name"},
		{"parent", func(n *Network) { n.Links[1].Name = ".." }, "not the name"},
		{"long name", func(n *Network) { n.Links[1].Name = "sixteen-letters-" }, "not the name"},
		{"NUL", func(n *Network) { n.Links[1].Name = "a\x00" }, "not the name"},
		{"hardware address", func(n *Network) { n.Links[1].Address = make([]byte, 20) }, "20 bytes"},
		{"links", func(n *Network) { n.Links = make([]*Link, MaxLinks+1) }, "links"},
		{"address", func(n *Network) { n.Addresses[0].Local = []byte{1} }, "1 bytes"},
		{"no address", func(n *Network) { n.Addresses[0] = nil }, "missing"},
		{"prefix", func(n *Network) { n.Addresses[0].PrefixLength = 33 }, "33 bits"},
		{"families", func(n *Network) { n.Addresses[0].Peer = make([]byte, 16) }, "several families"},
		{"label", func(n *Network) { n.Addresses[0].Label = "a\x00" }, "label"},
		{"link of an address", func(n *Network) { n.Addresses[0].Link = 9 }, "link 9"},
		{"addresses", func(n *Network) { n.Addresses = make([]*Address, MaxAddresses+1) }, "addresses"},
		{"family", func(n *Network) { n.Routes[0].Family = 1 }, "family 1"},
		{"no route", func(n *Network) { n.Routes[0] = nil }, "missing"},
		{"destination", func(n *Network) { n.Routes[0].Destination = make([]byte, 16) }, "several families"},
		{"prefix of nothing", func(n *Network) { n.Routes[0].PrefixLength = 8 }, "8 bits"},
		{"type", func(n *Network) { n.Routes[0].Type = 256 }, "out of range"},
		{"link of a hop", func(n *Network) { n.Routes[0].Hops[0].Link = 3 }, "link 3"},
		{"gateway", func(n *Network) { n.Routes[0].Hops[0].Gateway = []byte{1} }, "gateway"},
		{"weight", func(n *Network) { n.Routes[0].Hops[0].Weight = 256 }, "out of range"},
		{"hops", func(n *Network) { n.Routes[0].Hops = make([]*NextHop, MaxHops+1) }, "next hops"},
		{"routes", func(n *Network) { n.Routes = make([]*Route, MaxRoutes+1) }, "routes"},
		{"sysctl", func(n *Network) { n.Sysctls["x"] = "1\n2" }, "malformed value"},
	} {
		n := good()
		test.edit(n)
		err := n.Check()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v; want %q", test.name, err, test.want)
		}
	}
	if err := (*Network)(nil).Check(); err != nil {
		t.Errorf("no network: %v", err)
	}
}
