// Package devicefilter makes the rules of linux.resources.devices a BPF program
// of type BPF_PROG_TYPE_CGROUP_DEVICE, which is how cgroup v2 controls access to
// devices.
package devicefilter

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxRules keeps jumps within their 16 bits.
const maxRules = 4096

// Access to a device, as the program sees it.
const (
	mknod  = unix.BPF_DEVCG_ACC_MKNOD
	read   = unix.BPF_DEVCG_ACC_READ
	write  = unix.BPF_DEVCG_ACC_WRITE
	access = mknod | read | write
)

// rule is one rule; -1 is any type or number.
type rule struct {
	allow        bool
	kind         int32 // BPF_DEVCG_DEV_…
	major, minor int64
	access       int32
}

func (r *rule) matchesAll() bool { return r.kind < 0 && r.major < 0 && r.minor < 0 }

// standard are allowed whatever the configuration says: making nodes, and the
// specification's default devices with the terminals.
var standard = func() []rule {
	rules := []rule{
		{true, unix.BPF_DEVCG_DEV_CHAR, -1, -1, mknod},
		{true, unix.BPF_DEVCG_DEV_BLOCK, -1, -1, mknod},
	}
	for _, number := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null zero full random urandom
		{5, 0}, {5, 1}, {5, 2}, // tty console ptmx
		{136, -1}, // devpts
	} {
		rules = append(rules, rule{true, unix.BPF_DEVCG_DEV_CHAR, number[0], number[1], access})
	}
	return rules
}()

func parse(d *specs.LinuxDeviceCgroup) (rule, error) {
	r := rule{allow: d.Allow, kind: -1, major: -1, minor: -1}
	switch d.Type {
	case "b":
		r.kind = unix.BPF_DEVCG_DEV_BLOCK
	case "c":
		r.kind = unix.BPF_DEVCG_DEV_CHAR
	case "", "a":
		// As with cgroup v1, such a rule is about everything.
	default:
		return rule{}, fmt.Errorf("%q is not a device type", d.Type)
	}
	if r.kind >= 0 {
		for _, n := range []struct {
			from *int64
			to   *int64
		}{{d.Major, &r.major}, {d.Minor, &r.minor}} {
			if n.from != nil && *n.from >= 0 {
				*n.to = *n.from
			}
		}
		if r.major >= 1<<31 || r.minor >= 1<<31 {
			return rule{}, fmt.Errorf("%d:%d is not a device's number", r.major, r.minor)
		}
	}
	for _, c := range d.Access {
		switch c {
		case 'r':
			r.access |= read
		case 'w':
			r.access |= write
		case 'm':
			r.access |= mknod
		default:
			return rule{}, fmt.Errorf("access %q is not made of r, w and m", d.Access)
		}
	}
	if r.access == 0 {
		r.access = access
	}
	return r, nil
}

// compile returns the program for the rules, in their order, and the standard
// ones after them; nil: all is allowed. For each kind of access the last rule
// about a device counts, and without one it is denied.
func compile(devices []specs.LinuxDeviceCgroup) ([]instruction, error) {
	if len(devices) > maxRules {
		return nil, fmt.Errorf("%d rules are more than %d", len(devices), maxRules)
	}
	rules := make([]rule, 0, len(devices)+len(standard))
	otherwise, exceptions := false, false
	for i := range devices {
		r, err := parse(&devices[i])
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		if r.matchesAll() && r.access == access { // what came before counts no more
			rules, otherwise, exceptions = rules[:0], r.allow, false
			continue
		}
		rules, exceptions = append(rules, r), exceptions || !r.allow
	}
	if otherwise && !exceptions {
		return nil, nil
	}
	rules = append(rules, standard...)
	p := program{}
	p.load()
	for i := len(rules) - 1; i >= 0; i-- {
		p.rule(&rules[i])
	}
	p.exit(otherwise)
	return p.code, nil
}
