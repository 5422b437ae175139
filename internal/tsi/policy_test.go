package tsi

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

func rules(t *testing.T, list string) []spec.Rule {
	t.Helper()
	if list == "" {
		return nil
	}
	r, err := spec.ParseRules(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPolicy(t *testing.T) {
	const (
		ok      = unix.Errno(0)
		nobody  = unix.ECONNREFUSED
		refused = unix.EPERM
	)
	own, host := &Policy{}, &Policy{HostNamespace: true}
	resolver := []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("fe80::1%eth0")}
	dns := &Policy{HostNamespace: true, Resolvers: resolver}
	with := func(n spec.Network, hostNamespace bool) *Policy {
		return &Policy{Network: n, HostNamespace: hostNamespace, Resolvers: resolver}
	}
	allowed := with(spec.Network{Loopback: spec.Reach{Access: spec.AccessAllow}, LinkLocal: spec.Reach{Access: spec.AccessAllow}}, true)
	denied := with(spec.Network{Loopback: spec.Reach{Access: spec.AccessDeny}, LinkLocal: spec.Reach{Access: spec.AccessDeny}}, false)
	some := with(spec.Network{
		Loopback:  spec.Reach{Access: spec.AccessDeny, Rules: rules(t, "tcp:127.0.0.1:5432")},
		LinkLocal: spec.Reach{Access: spec.AccessDeny, Rules: rules(t, "169.254.169.254:80")},
	}, true)
	egress := with(spec.Network{Allow: rules(t, "tcp:10.0.0.0/8:443 udp:*:53 icmp:*"), Deny: rules(t, "10.9.0.0/16")}, false)
	for _, c := range []struct {
		name string
		p    *Policy
		to   string // PROTOCOL ADDRESS:PORT; several of them
		want unix.Errno
	}{
		{"no policy", nil, "tcp 127.0.0.1:1, tcp 169.254.169.254:80", ok},
		{"anywhere", own, "tcp 192.0.2.1:80, udp [2001:db8::1]:53, icmp 8.8.8.8:0, tcp [::ffff:192.0.2.1]:80", ok},
		{"loopback of the container", own, "tcp 127.0.0.1:80, tcp [::1]:80, tcp 0.0.0.0:80, udp [::]:9, tcp [::ffff:127.0.0.1]:1", ok},
		{"link-local", own, "tcp 169.254.169.254:80, udp 169.254.0.1:53, tcp [fe80::1]:80, tcp [febf::1]:80", refused},
		{"metadata", own, "tcp [fd00:ec2::254]:80, tcp 100.100.100.200:80, tcp 192.0.0.192:80, tcp 168.63.129.16:80, tcp [fd20:ce::254]:80", refused},
		{"disguised", own, "tcp [::ffff:169.254.169.254]:80, tcp [::169.254.169.254]:80, tcp [64:ff9b::169.254.169.254]:80, tcp [2002:a9fe:a9fe::]:80", refused},
		{"near misses", own, "tcp 169.253.255.255:1, tcp 169.255.0.0:1, tcp [fec0::1]:1, tcp [fd00:ec2::255]:1, tcp [2002:a9ff::]:1", ok},

		{"loopback of the host", host, "tcp 127.0.0.1:80, tcp 127.255.255.255:1, tcp [::1]:80, udp 127.0.0.53:53", nobody},
		{"other names of it", host, "tcp 0.0.0.0:80, tcp 0.1.2.3:80, tcp [::]:80, tcp [::ffff:127.0.0.1]:80, tcp [::ffff:0.0.0.0]:80, " +
			"tcp [::127.0.0.1]:1, tcp [64:ff9b::7f00:1]:1, tcp [2002:7f00:1::]:1", nobody},
		{"anywhere from the host", host, "tcp 192.0.2.1:80, icmp 192.0.2.1:0", ok},
		{"name servers", dns, "udp 127.0.0.53:53, tcp 127.0.0.53:53, udp 168.63.129.16:53, udp [fe80::1]:53, udp [::ffff:127.0.0.53]:53", ok},
		{"not their other ports", dns, "tcp 127.0.0.53:80, tcp 127.0.0.1:53, icmp 127.0.0.53:53", nobody},
		{"nor their neighbours", dns, "tcp 168.63.129.16:80, udp 169.254.169.254:53", refused},

		{"allowed", allowed, "tcp 127.0.0.1:1, tcp [::1]:1, tcp 169.254.169.254:80, tcp [fe80::1]:1", ok},
		{"loopback denied", denied, "tcp 127.0.0.1:1, udp 127.0.0.53:53", nobody},
		{"link-local denied", denied, "udp 168.63.129.16:53", refused},
		{"some loopback", some, "tcp 127.0.0.1:5432, tcp [::ffff:127.0.0.1]:5432, tcp 169.254.169.254:80", ok},
		{"other loopback", some, "udp 127.0.0.1:5432, tcp 127.0.0.1:5433, tcp 127.0.0.2:5432", nobody},
		{"other link-local", some, "tcp 169.254.169.254:81", refused},

		{"egress", egress, "tcp 10.1.2.3:443, udp 192.0.2.1:53, icmp 192.0.2.1:0, tcp 127.0.0.1:80, tcp [::ffff:10.1.2.3]:443", ok},
		{"other egress", egress, "tcp 10.1.2.3:80, udp 10.1.2.3:443, tcp 192.0.2.1:443, tcp [2001:db8::1]:443", refused},
		{"denied before allowed", egress, "tcp 10.9.0.1:443, tcp [::ffff:10.9.0.1]:443, udp [64:ff9b::10.9.0.1]:53", refused},
		{"an allowed list is none for metadata", with(spec.Network{Allow: rules(t, "*")}, false), "tcp 169.254.169.254:80", refused},
	} {
		for to := range strings.SplitSeq(c.to, ", ") {
			name, addr, _ := strings.Cut(to, " ")
			protocol := map[string]int{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP}[name]
			a := inet(addr)
			if got := c.p.permits(protocol, &a); got != c.want {
				t.Errorf("%s: %s: %v, want %v", c.name, to, got, c.want)
			}
		}
	}
	for _, c := range []struct {
		p    *Policy
		at   string
		want bool
	}{
		{nil, "127.0.0.1:80", false}, {own, "127.0.0.1:80", false}, {host, "127.0.0.1:80", true}, {host, "[::1]:80", true},
		{host, "[::ffff:127.0.0.1]:80", true}, {host, "0.0.0.0:80", false}, {host, "[::]:80", false}, {host, "192.0.2.1:80", false},
		{allowed, "127.0.0.1:80", false}, {some, "127.0.0.1:5432", true}, {denied, "127.0.0.1:80", true},
	} {
		a := inet(c.at)
		if got := c.p.keepsInside(&a); got != c.want {
			t.Errorf("%+v keeps %s inside: %v, want %v", c.p, c.at, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	var out bytes.Buffer
	g := newGuest(t, Options{
		Policy: &Policy{HostNamespace: true, Network: spec.Network{Deny: rules(t, "tcp:192.0.2.0/24:81")}},
		Log:    slog.New(slog.NewJSONHandler(&out, nil)),
	})
	_, addr := tcpServer(t)
	s := g.socket(familyInet, unix.SOCK_STREAM)
	s.fails(unix.ECONNREFUSED, opConnect, 0, addressBody(addr))
	s.fails(unix.EPERM, opConnect, 0, addressBody(inet("192.0.2.1:81")))
	s.fails(unix.ENETUNREACH, opConnect, 0, addressBody(inet("192.0.2.1:82")))
	s.fails(unix.EPERM, opConnect, 0, addressBody(inet("169.254.169.254:80")))
	if st := g.srv.Stats(); st.Refused != 3 || st.Failed != 4 {
		t.Errorf("%+v", st)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"protocol":"tcp","to":"`+addr.String()+`"`) {
		t.Errorf("the log has %s", got)
	}
}
