// Package seccomp compiles the seccomp profile of an OCI configuration to a
// classic BPF program, and loads it, without a C library. It also makes the
// filters of programs that know exactly what they call: see [Allow].
//
// The program finds the architecture and then, by binary search over ranges of
// numbers with the same action, the system call. Rules on arguments are tried
// in their order before a rule of the same call without any; what no rule
// matches gets the default action. As with other runtimes:
//
//   - the native architecture is always part of the filter; a call of another
//     one that is not listed kills the thread;
//   - a name the architecture does not have is skipped, as profiles are
//     written for many architectures;
//   - several conditions on the same argument of one rule are alternatives;
//   - unless the default action lets calls pass, calls newer than all in the
//     profile fail with ENOSYS, so that programs fall back to older ones.
//
// On i386, a rule for a socket or System V IPC call does not reach it through
// the multiplexers socketcall and ipc, which are calls of their own.
package seccomp

//go:generate go run gentable.go /usr/src/linux

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// syscall is a row of the table.
type syscall struct {
	name             string
	amd64, x32, i386 int16
}

// x32Bit marks the numbers of the x32 ABI, which shares x86-64's architecture.
const x32Bit = 0x40000000

// Filter is a compiled profile.
type Filter struct {
	program []unix.SockFilter
	flags   uintptr
}

// abi is one calling convention of an x86 kernel.
type abi int

const (
	amd64 abi = iota
	x32
	i386
	abiCount
)

var abis = map[specs.Arch]abi{
	specs.ArchX86_64: amd64,
	specs.ArchX32:    x32,
	specs.ArchX86:    i386,
}

// number is the number of a call, negative if the ABI does not have it.
func (a abi) number(name string) int {
	i, ok := slices.BinarySearchFunc(syscalls[:], name, func(s syscall, name string) int { return cmp.Compare(s.name, name) })
	if !ok {
		return -1
	}
	return int([abiCount]int16{syscalls[i].amd64, syscalls[i].x32, syscalls[i].i386}[a])
}

// condition is a test of an argument.
type condition struct {
	index uint
	op    specs.LinuxSeccompOperator
	value uint64
	datum uint64 // of SCMP_CMP_MASKED_EQ, whose value is the mask
}

// rule has conditions that must all hold.
type rule struct {
	conditions []condition
	action     uint32
}

// decision is what happens to one system call.
type decision struct {
	rules  []rule // tried in order
	action uint32 // if none matches
}

func (d decision) equal(e decision) bool {
	return len(d.rules) == 0 && len(e.rules) == 0 && d.action == e.action
}

// profile is a checked configuration.
type profile struct {
	defaultAction uint32
	// strict has no exceptions from the default action.
	strict bool
	// Rules by name, as listed.
	rules map[string][]rule
	names []string
}

// Compile compiles a profile. An error says what of it cannot be done.
func Compile(config *specs.LinuxSeccomp) (*Filter, error) {
	if config.ListenerPath != "" || config.ListenerMetadata != "" {
		return nil, errors.New("listenerPath is not supported: there is no way from the guest to a listener on the host")
	}
	p, err := check(config)
	if err != nil {
		return nil, err
	}
	var wanted [abiCount]bool
	wanted[amd64] = true
	for _, arch := range config.Architectures {
		a, ok := abis[arch]
		if !ok {
			if !knownArch(arch) {
				return nil, fmt.Errorf("unknown architecture %q", arch)
			}
			continue // never met on this machine
		}
		wanted[a] = true
	}
	f := &Filter{}
	if f.flags, err = filterFlags(config.Flags); err != nil {
		return nil, err
	}
	f.program = p.program(wanted)
	if len(f.program) > maxInstructions {
		return nil, fmt.Errorf("the profile needs %d instructions, the kernel takes %d", len(f.program), maxInstructions)
	}
	return f, nil
}

// Allow compiles an allow-list of system calls of the native architecture.
// Whatever no rule matches ends the process, also a call that is newer than all
// in the list, one through another architecture, and one that does not exist. An
// unknown name is an error.
func Allow(calls []specs.LinuxSyscall) (*Filter, error) {
	p, err := check(&specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess, Syscalls: calls})
	if err != nil {
		return nil, err
	}
	p.strict = true
	for _, name := range p.names {
		if amd64.number(name) < 0 {
			return nil, fmt.Errorf("unknown system call %q", name)
		}
	}
	f := &Filter{program: p.program([abiCount]bool{amd64: true}), flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}
	if len(f.program) > maxInstructions {
		return nil, fmt.Errorf("the list needs %d instructions, the kernel takes %d", len(f.program), maxInstructions)
	}
	return f, nil
}

func knownArch(arch specs.Arch) bool {
	switch arch {
	case specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
		specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64,
		specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

// filterFlags are the flags of seccomp(2). Without any in the profile, the
// mitigation of speculative store bypass stays as it is, as it does elsewhere.
func filterFlags(flags []specs.LinuxSeccompFlag) (uintptr, error) {
	if flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var bits uintptr
	for _, flag := range flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// There is one thread after execve.
		case specs.LinuxSeccompFlagLog:
			bits |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		default:
			return 0, fmt.Errorf("flag %q is not supported", flag)
		}
	}
	return bits, nil
}

func check(config *specs.LinuxSeccomp) (*profile, error) {
	p := &profile{rules: make(map[string][]rule)}
	var err error
	if p.defaultAction, err = action(config.DefaultAction, config.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	for i, call := range config.Syscalls {
		act, err := action(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		if len(call.Names) == 0 {
			return nil, fmt.Errorf("syscalls[%d] has no names", i)
		}
		rules, err := rulesOf(call.Args, act)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		for _, name := range call.Names {
			if _, seen := p.rules[name]; !seen {
				p.names = append(p.names, name)
			}
			p.rules[name] = append(p.rules[name], rules...)
		}
	}
	return p, nil
}

// rulesOf makes the rule of a list of conditions, or one for each where an
// argument is mentioned twice.
func rulesOf(args []specs.LinuxSeccompArg, act uint32) ([]rule, error) {
	var conditions []condition
	var seen [6]bool
	alternatives := false
	for _, arg := range args {
		if arg.Index >= 6 {
			return nil, fmt.Errorf("argument %d does not exist", arg.Index)
		}
		switch arg.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
			specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("unknown operator %q", arg.Op)
		}
		alternatives = alternatives || seen[arg.Index]
		seen[arg.Index] = true
		conditions = append(conditions, condition{index: arg.Index, op: arg.Op, value: arg.Value, datum: arg.ValueTwo})
	}
	if !alternatives {
		return []rule{{conditions: conditions, action: act}}, nil
	}
	var rules []rule
	for _, c := range conditions {
		rules = append(rules, rule{conditions: []condition{c}, action: act})
	}
	return rules, nil
}

// action is the value a filter returns.
func action(name specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		if name != specs.ActErrno && name != specs.ActTrace {
			return 0, fmt.Errorf("action %q has no errno", name)
		}
		const maxErrno = 4095
		if *errnoRet > maxErrno {
			return 0, fmt.Errorf("errno %d is above %d", *errnoRet, maxErrno)
		}
		data = uint32(*errnoRet)
	}
	switch name {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActNotify:
		return 0, errors.New("SCMP_ACT_NOTIFY is not supported: there is no way from the guest to a listener on the host")
	}
	return 0, fmt.Errorf("unknown action %q", name)
}

// lenient tells whether the default action lets calls pass.
func (p *profile) lenient() bool {
	switch p.defaultAction & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// span is a range of numbers, up to the next one's first, with one decision.
type span struct {
	first uint32
	decision
}

// spans are the decisions for the numbers of an ABI, from 0 on.
func (p *profile) spans(a abi) []span {
	byNumber := make(map[int]decision)
	last := -1
	for _, name := range p.names {
		number := a.number(name)
		if number < 0 {
			continue
		}
		byNumber[number] = p.decide(name)
		last = max(last, number)
	}
	otherwise := decision{action: p.defaultAction}
	list := []span{{0, otherwise}}
	add := func(first uint32, d decision) {
		tail := &list[len(list)-1]
		switch {
		case tail.equal(d):
		case tail.first == first:
			tail.decision = d
		default:
			list = append(list, span{first, d})
		}
	}
	for number := 0; number <= last; number++ {
		d, ok := byNumber[number]
		if !ok {
			d = otherwise
		}
		add(uint32(number), d)
	}
	if last >= 0 {
		newer := otherwise
		if !p.lenient() && !p.strict {
			newer.action = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		}
		add(uint32(last+1), newer)
	}
	return list
}

// decide sorts the rules of a call: those with conditions first.
func (p *profile) decide(name string) decision {
	d := decision{action: p.defaultAction}
	for _, r := range p.rules[name] {
		if len(r.conditions) == 0 {
			d.action = r.action
		} else {
			d.rules = append(d.rules, r)
		}
	}
	return d
}
