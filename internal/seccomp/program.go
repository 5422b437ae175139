package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxInstructions is BPF_MAXINSNS.
const maxInstructions = 4096

// Offsets in struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

const (
	opLoad   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAbove  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opAtOver = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opReturn = unix.BPF_RET | unix.BPF_K
)

func load(offset uint32) unix.SockFilter { return unix.SockFilter{Code: opLoad, K: offset} }
func ret(action uint32) unix.SockFilter  { return unix.SockFilter{Code: opReturn, K: action} }

// branch continues with yes if the comparison holds, otherwise with no. Both
// end in returns.
func branch(op uint16, k uint32, yes, no []unix.SockFilter) []unix.SockFilter {
	var code []unix.SockFilter
	if len(no) <= 255 {
		code = append(code, unix.SockFilter{Code: op, Jt: uint8(len(no)), K: k})
	} else {
		code = append(code,
			unix.SockFilter{Code: op, Jt: 0, Jf: 1, K: k},
			unix.SockFilter{Code: opJump, K: uint32(len(no))})
	}
	return append(append(code, no...), yes...)
}

// program is the filter for the ABIs that are wanted.
func (p *profile) program(wanted [abiCount]bool) []unix.SockFilter {
	kill := decision{action: unix.SECCOMP_RET_KILL_THREAD}
	if p.strict {
		kill.action = p.defaultAction
	}
	native := p.spans(amd64)
	if wanted[x32] {
		for _, s := range p.spans(x32) {
			s.first |= x32Bit
			native = append(native, s)
		}
	} else {
		// Number -1 is what a tracer leaves of a call it skipped.
		native = append(native, span{x32Bit, kill}, span{^uint32(0), decision{action: p.defaultAction}})
	}
	other := []unix.SockFilter{ret(kill.action)}
	if wanted[i386] {
		code := append([]unix.SockFilter{load(offsetNumber)}, tree(p.spans(i386), true)...)
		other = branch(opEqual, unix.AUDIT_ARCH_I386, code, other)
	}
	code := append([]unix.SockFilter{load(offsetNumber)}, tree(native, false)...)
	return append([]unix.SockFilter{load(offsetArch)}, branch(opEqual, unix.AUDIT_ARCH_X86_64, code, other)...)
}

// tree is the binary search for the span of the number in the accumulator.
func tree(spans []span, narrow bool) []unix.SockFilter {
	if len(spans) == 1 {
		return spans[0].code(narrow)
	}
	middle := len(spans) / 2
	return branch(opAtOver, spans[middle].first, tree(spans[middle:], narrow), tree(spans[:middle], narrow))
}

// code tries the rules; narrow is for an ABI with arguments of 32 bits.
func (d decision) code(narrow bool) []unix.SockFilter {
	var code []unix.SockFilter
	for _, r := range d.rules {
		code = append(code, r.code(narrow)...)
	}
	return append(code, ret(d.action))
}

// code returns the action if all conditions hold and otherwise goes on after
// itself.
func (r rule) code(narrow bool) []unix.SockFilter {
	code := []unix.SockFilter{ret(r.action)}
	for i := len(r.conditions) - 1; i >= 0; i-- {
		code = append(r.conditions[i].code(uint8(len(code)), narrow), code...)
	}
	return code
}

// code goes on after itself if the condition holds, otherwise skips as many
// instructions more as skip says.
func (c condition) code(skip uint8, narrow bool) []unix.SockFilter {
	low := load(offsetArgs + 8*uint32(c.index))
	high := load(offsetArgs + 8*uint32(c.index) + 4)
	value, datum := c.value, c.datum
	if c.op == specs.OpMaskedEqual {
		datum &= value
	}
	lowValue, highValue := uint32(value), uint32(value>>32)
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: op, K: k, Jt: yes, Jf: no}
	}
	// The comparison of the low halves, which decides when the high ones are
	// equal: go on, or fail.
	var decide []unix.SockFilter
	switch c.op {
	case specs.OpEqualTo:
		decide = []unix.SockFilter{low, jump(opEqual, lowValue, 0, skip)}
	case specs.OpNotEqual:
		decide = []unix.SockFilter{low, jump(opEqual, lowValue, skip, 0)}
	case specs.OpGreaterThan:
		decide = []unix.SockFilter{low, jump(opAbove, lowValue, 0, skip)}
	case specs.OpGreaterEqual:
		decide = []unix.SockFilter{low, jump(opAtOver, lowValue, 0, skip)}
	case specs.OpLessThan:
		decide = []unix.SockFilter{low, jump(opAtOver, lowValue, skip, 0)}
	case specs.OpLessEqual:
		decide = []unix.SockFilter{low, jump(opAbove, lowValue, skip, 0)}
	case specs.OpMaskedEqual:
		decide = []unix.SockFilter{low, {Code: opAnd, K: lowValue}, jump(opEqual, uint32(datum), 0, skip)}
	}
	if narrow {
		return decide
	}
	pass, fail := uint8(len(decide)), uint8(len(decide))+skip
	switch c.op {
	case specs.OpEqualTo:
		return append([]unix.SockFilter{high, jump(opEqual, highValue, 0, fail)}, decide...)
	case specs.OpNotEqual:
		return append([]unix.SockFilter{high, jump(opEqual, highValue, 0, pass)}, decide...)
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		return append([]unix.SockFilter{high, jump(opAbove, highValue, pass+1, 0), jump(opEqual, highValue, 0, fail)}, decide...)
	case specs.OpLessThan, specs.OpLessEqual:
		return append([]unix.SockFilter{high, jump(opAbove, highValue, fail+1, 0), jump(opEqual, highValue, 0, pass)}, decide...)
	default: // masked
		return append([]unix.SockFilter{high, {Code: opAnd, K: highValue}, jump(opEqual, uint32(datum>>32), 0, fail)}, decide...)
	}
}
