package devicefilter

import "golang.org/x/sys/unix"

// instruction is struct bpf_insn of <linux/bpf.h>.
type instruction struct {
	code      uint8
	registers uint8 // destination in the low half, source in the high one
	offset    int16
	immediate int32
}

// Registers. The context, struct bpf_cgroup_dev_ctx, is in the first one.
const (
	result = iota
	context
	kind
	wanted // access that no rule has allowed yet
	major
	minor
)

// Operations, with an immediate operand where there are two.
const (
	opLoad   = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opCopy   = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opSet    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAnd    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opShift  = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opUnless = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K  // jump if not equal
	opIfAny  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K // jump if a bit is set
	opReturn = unix.BPF_JMP | unix.BPF_EXIT
)

// program is one being made.
type program struct {
	code []instruction
}

func (p *program) add(code uint8, destination, source uint8, offset int16, immediate int32) {
	p.code = append(p.code, instruction{code, destination | source<<4, offset, immediate})
}

// load takes the context apart: access in the high half of its first word, the
// device's type in the low one, then major and minor number.
func (p *program) load() {
	p.add(opLoad, kind, context, 0, 0)
	p.add(opCopy, wanted, kind, 0, 0)
	p.add(opAnd, kind, 0, 0, 0xffff)
	p.add(opShift, wanted, 0, 0, 16)
	p.add(opLoad, major, context, 4, 0)
	p.add(opLoad, minor, context, 8, 0)
}

// exit ends the program.
func (p *program) exit(allow bool) {
	value := int32(0)
	if allow {
		value = 1
	}
	p.add(opSet, result, 0, 0, value)
	p.add(opReturn, 0, 0, 0, 0)
}

// rule decides about the access that is left, as far as the rule goes.
func (p *program) rule(r *rule) {
	var body program
	switch {
	case r.access == access:
		body.exit(r.allow)
	case r.allow:
		body.add(opAnd, wanted, 0, 0, access&^r.access)
		body.add(opUnless, wanted, 0, 2, 0)
		body.exit(true)
	default:
		body.add(opIfAny, wanted, 0, 1, r.access)
		body.add(unix.BPF_JMP|unix.BPF_JA, 0, 0, 2, 0)
		body.exit(false)
	}
	var checks []instruction
	for _, c := range []struct {
		register uint8
		value    int64
	}{{kind, int64(r.kind)}, {major, r.major}, {minor, r.minor}} {
		if c.value >= 0 {
			checks = append(checks, instruction{opUnless, c.register, 0, int32(c.value)})
		}
	}
	for i := range checks { // to behind the body
		checks[i].offset = int16(len(checks) - 1 - i + len(body.code))
	}
	p.code = append(append(p.code, checks...), body.code...)
}
