package netmirror

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"runv.dev/runv/agent/guest/netdevice"
	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/thread"
)

// inNamespace runs f on a thread with a new network namespace, where lo is
// device 1. The thread ends with f.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a network namespace: run it as root")
	}
	var err error
	thread.Run(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	if err != nil {
		t.Fatal(os.NewSyscallError("unshare", err))
	}
}

func lo() *protocol.Link {
	return &protocol.Link{
		Index: 1, Name: "lo", Mtu: 1500, Address: make([]byte, 6),
		Flags: unix.IFF_UP | unix.IFF_LOOPBACK, Carrier: true,
	}
}

func address(bits uint32, local ...byte) *protocol.Address {
	a := &protocol.Address{Link: 1, Local: local, PrefixLength: bits}
	if len(local) == 4 {
		a.Label = "lo"
	}
	return a
}

func loopback() []*protocol.Address {
	a := address(8, 127, 0, 0, 1)
	a.Scope = unix.RT_SCOPE_HOST
	return []*protocol.Address{a}
}

var (
	v6    = []byte{0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	v6too = []byte{0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}
)

// What one side makes of a description, the other describes the same way.
func TestRoundTrip(t *testing.T) {
	direct := []*protocol.NextHop{{Link: 1}}
	peer := address(32, 10, 0, 9, 1)
	peer.Peer = []byte{10, 0, 9, 2}
	bare := address(24, 10, 0, 8, 1)
	bare.Flags = unix.IFA_F_NOPREFIXROUTE
	bare.Broadcast = []byte{10, 0, 8, 255}
	for _, test := range []struct {
		name string
		n    *protocol.Network
	}{
		{"addresses", &protocol.Network{Addresses: []*protocol.Address{
			address(24, 10, 0, 0, 1), bare, peer, address(24, 10, 0, 0, 2), address(64, v6...), address(64, v6too...),
		}}},
		{"one less", &protocol.Network{Addresses: []*protocol.Address{
			address(24, 10, 0, 0, 2), bare, address(64, v6too...),
		}}},
		{"routes", &protocol.Network{
			Addresses: []*protocol.Address{address(24, 10, 0, 0, 1)},
			Routes: []*protocol.Route{
				{Family: unix.AF_INET, Destination: []byte{10, 1, 0, 0}, PrefixLength: 16, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_STATIC, Metric: 7, Mtu: 1300, Source: []byte{10, 0, 0, 1}, Hops: direct},
				{Family: unix.AF_INET, Destination: []byte{10, 2, 0, 0}, PrefixLength: 16, Type: unix.RTN_BLACKHOLE, Protocol: unix.RTPROT_BOOT},
				{Family: unix.AF_INET, Destination: []byte{10, 3, 0, 0}, PrefixLength: 16, Type: unix.RTN_PROHIBIT, Protocol: unix.RTPROT_BOOT},
				{Family: unix.AF_INET6, Destination: []byte{0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, PrefixLength: 32, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC, Metric: 1024, Hops: direct},
			},
		}},
		{"nothing", &protocol.Network{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNamespace(t, func() {
				var guest netdevice.Mirror
				want := proto.Clone(test.n).(*protocol.Network)
				want.Links = []*protocol.Link{lo()}
				want.Addresses = append(loopback(), want.Addresses...)
				// From something else, so that there is something to take back.
				before := proto.Clone(want).(*protocol.Network)
				before.Links[0].Mtu = 2000
				before.Addresses = append(before.Addresses, address(24, 10, 44, 0, 1))
				before.Routes = append(before.Routes, &protocol.Route{
					Family: unix.AF_INET, Destination: []byte{10, 66, 0, 0}, PrefixLength: 16, Type: unix.RTN_UNREACHABLE,
				})
				for _, n := range []*protocol.Network{before, want} {
					if warnings, err := guest.Set(n); err != nil || len(warnings) > 0 {
						t.Errorf("Set() = %q, %v", warnings, err)
					}
				}
				got := read(t)
				for _, part := range []struct {
					name      string
					got, want []proto.Message
				}{
					{"links", messages(got.Links), messages(want.Links)},
					{"addresses", messages(got.Addresses), messages(want.Addresses)},
					{"routes", messages(got.Routes), messages(want.Routes)},
				} {
					if !slices.EqualFunc(part.got, part.want, proto.Equal) {
						t.Errorf("%s:\ngot  %v\nwant %v", part.name, part.got, part.want)
					}
				}
				if got.Sysctls["net.ipv4.ping_group_range"] != "1\t0" {
					t.Errorf("sysctls %v", got.Sysctls)
				}
			})
		})
	}
}

// read describes the namespace but for what Linux has everywhere.
func read(t *testing.T) *protocol.Network {
	m, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
		return &protocol.Network{}
	}
	defer m.Close()
	n, err := m.Read()
	if err != nil {
		t.Error(err)
		return &protocol.Network{}
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	n.Links = slices.DeleteFunc(n.Links, func(l *protocol.Link) bool { return l.Index != 1 })
	for _, l := range n.Links {
		l.Operstate = 0
	}
	n.Addresses = slices.DeleteFunc(n.Addresses, func(a *protocol.Address) bool { return len(a.Local) == 16 && a.Local[0] == 0 })
	n.Routes = slices.DeleteFunc(n.Routes, func(r *protocol.Route) bool {
		return r.Family == unix.AF_INET6 && (r.Destination[0] == 0 || r.Protocol == unix.RTPROT_KERNEL)
	})
	return n
}

func messages[M proto.Message](list []M) []proto.Message {
	var all []proto.Message
	for _, m := range list {
		all = append(all, m)
	}
	return all
}

func TestFollow(t *testing.T) {
	inNamespace(t, func() {
		m, err := Open(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
			return
		}
		defer m.Close()
		first, err := m.Read()
		if err != nil {
			t.Error(err)
			return
		}
		var guest netdevice.Mirror
		change := proto.Clone(first).(*protocol.Network)
		change.Sysctls = nil
		change.Links[0].Flags |= unix.IFF_UP
		change.Addresses = append(loopback(), address(24, 10, 0, 0, 1))
		if _, err := guest.Set(change); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		err = m.Follow(ctx, first, func(n *protocol.Network) error {
			if slices.ContainsFunc(n.Addresses, func(a *protocol.Address) bool { return proto.Equal(a, address(24, 10, 0, 0, 1)) }) {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Follow() = %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0, 'l', 'o', 0, 0})
	f.Add([]byte{2, 16, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0, 12, 0, 9, 0, 8, 0, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 10, 1, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		decodeLink(data)
		decodeAddress(data)
		if r := decodeRoute(data); r != nil && len(r.Hops) > protocol.MaxHops {
			t.Errorf("%d next hops", len(r.Hops))
		}
		for len(data) > 0 {
			_, rest, err := nextMessage(data)
			if err != nil {
				break
			}
			if len(rest) >= len(data) {
				t.Fatal("no progress")
			}
			data = rest
		}
	})
}
