package spec

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseRules(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		in   string
		want []Rule
	}{
		{"10.0.0.0/8", []Rule{{Prefix: prefix("10.0.0.0/8")}}},
		{"192.0.2.1", []Rule{{Prefix: prefix("192.0.2.1/32")}}},
		{"*", []Rule{{}}},
		{"tcp:*:443", []Rule{{Protocol: "tcp", First: 443, Last: 443}}},
		{"*:1-1023", []Rule{{First: 1, Last: 1023}}},
		{"icmp:*", []Rule{{Protocol: "icmp"}}},
		{"[::1]", []Rule{{Prefix: prefix("::1/128")}}},
		{"udp:[fd00::/8]:53", []Rule{{Protocol: "udp", Prefix: prefix("fd00::/8"), First: 53, Last: 53}}},
		{"10.0.0.0/8:80, tcp:*:22,*", []Rule{
			{Prefix: prefix("10.0.0.0/8"), First: 80, Last: 80}, {Protocol: "tcp", First: 22, Last: 22}, {},
		}},
	} {
		got, err := ParseRules(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.in, got, err, c.want)
		}
		// The plan travels as JSON.
		data, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var back []Rule
		if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, got) {
			t.Errorf("%s: %+v, %v", data, back, err)
		}
	}
	for _, in := range []string{
		"", ",", "10.0.0.1/8", "10.0.0.0/33", "fd00::/8", "[fd00::/8", "[10.0.0.0/8]", "10.0.0.0/8:0", "*:5-4", "*:65536",
		"*:", "sctp:*", "icmp:*:1", "[::ffff:10.0.0.0/104]", "[fe80::1%eth0]", "example.com", "*:80:90", "[::1]80", "tcp:",
		strings.Repeat("*,", maxRules+1),
	} {
		if got, err := ParseRules(in); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

func TestNetworkAnnotations(t *testing.T) {
	rule := Rule{Prefix: netip.MustParsePrefix("127.0.0.53/32"), First: 53, Last: 53}
	for _, c := range []struct {
		name, value string
		want        Network
		bad         bool
	}{
		{name: AnnotationLoopback, value: "allow", want: Network{Loopback: Reach{Access: AccessAllow}}},
		{name: AnnotationLoopback, value: "deny", want: Network{Loopback: Reach{Access: AccessDeny}}},
		{name: AnnotationLoopback, value: "127.0.0.53:53", want: Network{Loopback: Reach{AccessDeny, []Rule{rule}}}},
		{name: AnnotationLinkLocal, value: "allow", want: Network{LinkLocal: Reach{Access: AccessAllow}}},
		{name: AnnotationAllow, value: "127.0.0.53:53", want: Network{Allow: []Rule{rule}}},
		{name: AnnotationDeny, value: "127.0.0.53:53", want: Network{Deny: []Rule{rule}}},
		{name: AnnotationLoopback, value: "yes", bad: true},
		{name: AnnotationLinkLocal, value: "", bad: true},
		{name: AnnotationAllow, value: "allow", bad: true},
		{name: AnnotationDeny, value: "", bad: true},
		{name: AnnotationPrefix + "network.all", value: "allow", bad: true},
	} {
		var p planner
		known, err := p.network(c.name, c.value)
		if ok := known && err == nil; ok == c.bad || ok && !reflect.DeepEqual(p.plan.Network, c.want) {
			t.Errorf("%s=%s: %+v, %v, %v; want %+v", c.name, c.value, p.plan.Network, known, err, c.want)
		}
	}
}

func TestOpened(t *testing.T) {
	rule := []Rule{{First: 80, Last: 80}}
	for _, c := range []struct {
		network Network
		want    []string
	}{
		{Network{}, nil},
		{Network{Allow: rule, Deny: rule}, nil},
		{Network{Loopback: Reach{Access: AccessDeny}, LinkLocal: Reach{Access: AccessDeny}}, nil},
		{Network{Loopback: Reach{Access: AccessAllow}}, []string{AnnotationLoopback}},
		{Network{Loopback: Reach{Access: AccessDeny, Rules: rule}, LinkLocal: Reach{Access: AccessAllow}}, []string{AnnotationLoopback, AnnotationLinkLocal}},
		{Network{LinkLocal: Reach{Access: AccessDeny, Rules: rule}}, []string{AnnotationLinkLocal}},
	} {
		if got := c.network.Opened(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v opens %v, want %v", c.network, got, c.want)
		}
	}
}
