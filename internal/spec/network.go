package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Annotations that say what the container's sockets may reach. The values are
// lists of rules, see ParseRules; those of the first two can also be "allow" or
// "deny".
const (
	AnnotationLoopback  = AnnotationPrefix + "network.loopback"
	AnnotationLinkLocal = AnnotationPrefix + "network.link-local"
	AnnotationAllow     = AnnotationPrefix + "network.allow"
	AnnotationDeny      = AnnotationPrefix + "network.deny"
)

// Network is what the container's sockets may reach.
type Network struct {
	Loopback  Reach  `json:"loopback,omitzero"`
	LinkLocal Reach  `json:"linkLocal,omitzero"`
	Allow     []Rule `json:"allow,omitempty"` // nothing else, unless empty
	Deny      []Rule `json:"deny,omitempty"`
}

// Opened names the annotations that open what is closed by default. Whoever can
// set annotations, the author of an image among them, could so reach the host.
func (n *Network) Opened() []string {
	var list []string
	for _, reach := range []struct {
		name string
		of   Reach
	}{{AnnotationLoopback, n.Loopback}, {AnnotationLinkLocal, n.LinkLocal}} {
		if reach.of.Access == AccessAllow || len(reach.of.Rules) > 0 {
			list = append(list, reach.name)
		}
	}
	return list
}

// Access says whether a class of addresses can be reached.
type Access string

// The values of Access.
const (
	AccessDefault Access = ""
	AccessAllow   Access = "allow"
	AccessDeny    Access = "deny" // but for Rules
)

// Reach is what of a class of addresses can be reached.
type Reach struct {
	Access Access `json:"access,omitempty"`
	Rules  []Rule `json:"rules,omitempty"`
}

// Rule matches destinations.
type Rule struct {
	Protocol    string       `json:"protocol,omitempty"` // tcp, udp, icmp; empty: any
	Prefix      netip.Prefix `json:"prefix,omitzero"`    // the zero Prefix: any
	First, Last uint16       `json:",omitempty"`         // ports; 0: any
}

// maxRules bounds a list: every connection and datagram is compared with it.
const maxRules = 256

// ParseRules parses rules separated by commas or spaces:
//
//	[PROTOCOL:]ADDRESS[/BITS][:PORT[-PORT]]
//
// with tcp, udp or icmp as protocol, * for any address, and IPv6 addresses with
// their bits in brackets: 10.0.0.0/8, tcp:*:443, udp:[fd00::/8]:5000-5999.
func ParseRules(list string) ([]Rule, error) {
	fields := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	if len(fields) == 0 {
		return nil, errors.New("no rule")
	}
	if len(fields) > maxRules {
		return nil, fmt.Errorf("%d rules, at most %d", len(fields), maxRules)
	}
	rules := make([]Rule, len(fields))
	for i, f := range fields {
		r, err := parseRule(f)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", f, err)
		}
		rules[i] = r
	}
	return rules, nil
}

var errRule = errors.New("not a rule such as 10.0.0.0/8, tcp:*:443 or udp:[fd00::/8]:53")

func parseRule(s string) (Rule, error) {
	var r Rule
	for _, protocol := range []string{"tcp", "udp", "icmp"} {
		if rest, ok := strings.CutPrefix(s, protocol+":"); ok {
			r.Protocol, s = protocol, rest
			break
		}
	}
	var addr, ports string
	ok, hasPorts := true, false
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		addr, ports, ok = strings.Cut(rest, "]")
		if ok && ports != "" {
			ports, ok = strings.CutPrefix(ports, ":")
			hasPorts = true
		}
		ok = ok && strings.Contains(addr, ":")
	} else {
		addr, ports, hasPorts = strings.Cut(s, ":")
	}
	if !ok {
		return r, errRule
	}
	if addr != "*" {
		prefix, err := parsePrefix(addr)
		if err != nil {
			return r, err
		}
		r.Prefix = prefix
	}
	if !hasPorts {
		return r, nil
	}
	if r.Protocol == "icmp" {
		return r, errors.New("ICMP has no ports")
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || a > b {
		if strings.Contains(ports, ":") {
			return r, errors.New("an IPv6 address is written in brackets")
		}
		return r, fmt.Errorf("%q is not a port or range of ports", ports)
	}
	r.First, r.Last = uint16(a), uint16(b)
	return r, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, errRule
		}
		s = netip.PrefixFrom(a, a.BitLen()).String()
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errRule
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits set beyond its length: %s is meant?", p, p.Masked())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("write an IPv4 address as such")
	}
	return p, nil
}

// network takes an annotation about the network; it returns false for others.
func (p *planner) network(name, value string) (bool, error) {
	n := &p.plan.Network
	var err error
	switch name {
	case AnnotationLoopback:
		n.Loopback, err = parseReach(value)
	case AnnotationLinkLocal:
		n.LinkLocal, err = parseReach(value)
	case AnnotationAllow:
		n.Allow, err = ParseRules(value)
	case AnnotationDeny:
		n.Deny, err = ParseRules(value)
	default:
		return false, nil
	}
	return true, err
}

func parseReach(value string) (Reach, error) {
	switch Access(value) {
	case AccessAllow, AccessDeny:
		return Reach{Access: Access(value)}, nil
	}
	rules, err := ParseRules(value)
	if err != nil {
		return Reach{}, fmt.Errorf("neither allow nor deny nor rules: %w", err)
	}
	return Reach{Access: AccessDeny, Rules: rules}, nil
}
