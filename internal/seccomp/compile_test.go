package seccomp

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is what the kernel shows a filter.
type call struct {
	arch   uint32
	number uint32
	args   [6]uint64
}

// run interprets a program as the kernel does.
func run(t *testing.T, program []unix.SockFilter, c call) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		jump := func(holds bool) {
			if holds {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case opLoad:
			switch {
			case in.K == offsetNumber:
				a = c.number
			case in.K == offsetArch:
				a = c.arch
			case in.K >= offsetArgs && in.K < offsetArgs+48 && in.K%4 == 0:
				arg := c.args[(in.K-offsetArgs)/8]
				a = uint32(arg >> (8 * (in.K % 8)))
			default:
				t.Fatalf("load at %d", in.K)
			}
		case opAnd:
			a &= in.K
		case opJump:
			pc += int(in.K)
		case opEqual:
			jump(a == in.K)
		case opAbove:
			jump(a > in.K)
		case opAtOver:
			jump(a >= in.K)
		case opReturn:
			return in.K
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
	}
	t.Fatal("the program does not end in a return")
	return 0
}

const (
	allow    = uint32(unix.SECCOMP_RET_ALLOW)
	kill     = uint32(unix.SECCOMP_RET_KILL_THREAD)
	errnoRet = uint32(unix.SECCOMP_RET_ERRNO)
)

func ptr[T any](v T) *T { return &v }

func TestCompile(t *testing.T) {
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write", "openat", "no_such_call", "arm_fadvise64_64"}, Action: specs.ActAllow},
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.ENOSYS))},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: 0x7e020000, ValueTwo: 0, Op: specs.OpMaskedEqual}}},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: 0, Op: specs.OpEqualTo}, {Index: 0, Value: 8, Op: specs.OpEqualTo}}},
			{Names: []string{"socket"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EINVAL)), Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: 16, Op: specs.OpEqualTo}, {Index: 2, Value: 9, Op: specs.OpEqualTo}}},
			{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 2, Value: 9, Op: specs.OpNotEqual}}},
			{Names: []string{"ptrace"}, Action: specs.ActTrace, ErrnoRet: ptr(uint(77))},
			{Names: []string{"kexec_load"}, Action: specs.ActKillProcess},
			{Names: []string{"mount"}, Action: specs.ActTrap},
			{Names: []string{"reboot"}, Action: specs.ActLog},
		},
	}
	filter, err := Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	const a64, a32 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	eperm := errnoRet | uint32(unix.EPERM)
	enosys := errnoRet | uint32(unix.ENOSYS)
	tests := []struct {
		name string
		call call
		want uint32
	}{
		{"read", call{arch: a64, number: 0}, allow},
		{"write", call{arch: a64, number: 1}, allow},
		{"open", call{arch: a64, number: 2}, eperm},
		{"openat", call{arch: a64, number: 257}, allow},
		{"clone3", call{arch: a64, number: 435}, enosys},
		{"newer than all", call{arch: a64, number: 436}, enosys},
		{"clone thread", call{arch: a64, number: 56, args: [6]uint64{0x3d0f00}}, allow},
		{"clone with namespaces", call{arch: a64, number: 56, args: [6]uint64{0x20000000}}, eperm},
		{"personality 0", call{arch: a64, number: 135}, allow},
		{"personality 8", call{arch: a64, number: 135, args: [6]uint64{8}}, allow},
		{"personality 9", call{arch: a64, number: 135, args: [6]uint64{9}}, eperm},
		{"personality, high half", call{arch: a64, number: 135, args: [6]uint64{8 | 1<<32}}, eperm},
		{"audit socket", call{arch: a64, number: 41, args: [6]uint64{16, 3, 9}}, errnoRet | uint32(unix.EINVAL)},
		{"other socket", call{arch: a64, number: 41, args: [6]uint64{16, 3, 0}}, allow},
		{"ptrace", call{arch: a64, number: 101}, unix.SECCOMP_RET_TRACE | 77},
		{"kexec_load", call{arch: a64, number: 246}, unix.SECCOMP_RET_KILL_PROCESS},
		{"mount", call{arch: a64, number: 165}, unix.SECCOMP_RET_TRAP},
		{"reboot", call{arch: a64, number: 169}, unix.SECCOMP_RET_LOG},
		{"i386 read", call{arch: a32, number: 3}, allow},
		{"i386 x86-64's read", call{arch: a32, number: 0}, eperm},
		{"i386 personality, high half ignored", call{arch: a32, number: 136, args: [6]uint64{8 | 1<<32}}, allow},
		{"x32 read", call{arch: a64, number: x32Bit}, allow},
		{"x32 ptrace", call{arch: a64, number: x32Bit | 521}, unix.SECCOMP_RET_TRACE | 77},
		{"x32 open", call{arch: a64, number: x32Bit | 2}, eperm},
		{"another architecture", call{arch: unix.AUDIT_ARCH_AARCH64, number: 0}, kill},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, filter.program, tt.call); got != tt.want {
				t.Errorf("%#x; want %#x", got, tt.want)
			}
		})
	}
}

func TestArchitectures(t *testing.T) {
	filter, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		call call
		want uint32
	}{
		{"native", call{arch: unix.AUDIT_ARCH_X86_64, number: 500}, allow},
		{"skipped by a tracer", call{arch: unix.AUDIT_ARCH_X86_64, number: 0xffffffff}, allow},
		{"x32", call{arch: unix.AUDIT_ARCH_X86_64, number: x32Bit}, kill},
		{"i386", call{arch: unix.AUDIT_ARCH_I386, number: 1}, kill},
	} {
		if got := run(t, filter.program, tt.call); got != tt.want {
			t.Errorf("%s: %#x; want %#x", tt.name, got, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	one := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	tests := []struct {
		name    string
		profile *specs.LinuxSeccomp
		text    string
	}{
		{"no default", &specs.LinuxSeccomp{}, "defaultAction"},
		{"errno of allow", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: ptr(uint(1))}, "has no errno"},
		{"errno", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(4096))}), "above"},
		{"notify", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), "SCMP_ACT_NOTIFY is not supported"},
		{"listener", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, "listenerPath"},
		{"architecture", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_PDP11"}}, "PDP11"},
		{"flag", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, "flag"},
		{"argument", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), "argument 6"},
		{"operator", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "~"}}}), "operator"},
		{"no names", one(specs.LinuxSyscall{Action: specs.ActAllow}), "no names"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Compile(tt.profile); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v; want %q", err, tt.text)
			}
		})
	}
}

func TestTable(t *testing.T) {
	if !slices.IsSortedFunc(syscalls[:], func(a, b syscall) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not in order")
	}
	for name, want := range map[string][abiCount]int{
		"read": {0, 0, 3}, "execve": {59, 520, 11}, "clone3": {435, 435, 435}, "socketcall": {-1, -1, 102}, "nonsense": {-1, -1, -1},
	} {
		for a := range abiCount {
			if got := a.number(name); got != want[a] {
				t.Errorf("%s of ABI %d is %d; want %d", name, a, got, want[a])
			}
		}
	}
}

// holds evaluates a condition without BPF.
func holds(c condition, arg uint64) bool {
	switch c.op {
	case specs.OpEqualTo:
		return arg == c.value
	case specs.OpNotEqual:
		return arg != c.value
	case specs.OpGreaterThan:
		return arg > c.value
	case specs.OpGreaterEqual:
		return arg >= c.value
	case specs.OpLessThan:
		return arg < c.value
	case specs.OpLessEqual:
		return arg <= c.value
	default:
		return arg&c.value == c.datum&c.value
	}
}

// FuzzConditions compares the code of rules with a direct evaluation. The seed
// makes values that are close to each other, so that every branch is taken.
func FuzzConditions(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	operators := []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		value := func() uint64 { return random.Uint64N(3)<<32 | random.Uint64N(3) }
		var d decision
		d.action = 99
		for i := range 1 + random.IntN(3) {
			r := rule{action: uint32(i)}
			for range 1 + random.IntN(6) {
				r.conditions = append(r.conditions, condition{
					index: uint(random.IntN(6)), op: operators[random.IntN(len(operators))], value: value(), datum: value(),
				})
			}
			d.rules = append(d.rules, r)
		}
		program := d.code(false)
		for range 100 {
			var c call
			for i := range c.args {
				c.args[i] = value()
			}
			want := d.action
			for _, r := range d.rules {
				if !slices.ContainsFunc(r.conditions, func(x condition) bool { return !holds(x, c.args[x.index]) }) {
					want = r.action
					break
				}
			}
			if got := run(t, program, c); got != want {
				t.Fatalf("%+v with %v: %d; want %d", d.rules, c.args, got, want)
			}
		}
	})
}

// FuzzNumbers compares the search for a number with the profile.
func FuzzNumbers(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 2))
		p := &profile{defaultAction: errnoRet | 1, rules: make(map[string][]rule)}
		want := make(map[int]uint32)
		last := -1
		for range random.IntN(300) {
			s := syscalls[random.IntN(len(syscalls))]
			if _, twice := p.rules[s.name]; twice {
				continue
			}
			act := errnoRet | uint32(2+random.IntN(3))
			p.names = append(p.names, s.name)
			p.rules[s.name] = []rule{{action: act}}
			if s.amd64 >= 0 {
				want[int(s.amd64)] = act
				last = max(last, int(s.amd64))
			}
		}
		program := p.program([abiCount]bool{amd64: true, i386: true, x32: true})
		if len(program) > maxInstructions {
			t.Fatalf("%d instructions", len(program))
		}
		for number := range 600 {
			expect, ok := want[number]
			switch {
			case !ok && number > last && last >= 0:
				expect = errnoRet | uint32(unix.ENOSYS)
			case !ok:
				expect = errnoRet | 1
			}
			if got := run(t, program, call{arch: unix.AUDIT_ARCH_X86_64, number: uint32(number)}); got != expect {
				t.Fatalf("%d: %#x; want %#x", number, got, expect)
			}
		}
	})
}
