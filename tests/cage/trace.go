package main

import (
	"regexp"
	"strconv"
	"strings"
)

// call is a system call as a trace shows it.
type call struct {
	name string
	args [6]uint64 // those that are numbers
}

var (
	// A call that begins, with the thread that makes it.
	begins = regexp.MustCompile(`^(\d+) +([a-z_0-9]+)\((.*)$`)
	// What clone returns, in the tracer's PID namespace.
	returned   = regexp.MustCompile(`= (\d+)(?: /\* (\d+) in strace's PID NS \*/)?$`)
	resumed    = regexp.MustCompile(`^(\d+) +<\.\.\. ([a-z_0-9]+) resumed>`)
	cloneFlags = regexp.MustCompile(`flags=(0x[0-9a-f]+|\d+)`)
)

const (
	cloneThread = 0x10000
	// seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | ...
	setFilter  = 1
	flagThread = 1
)

// caged has the calls of the processes of a trace that filtered all of their
// threads, from then on, and the number of these processes.
func caged(trace string) (calls []call, processes int) {
	leader := make(map[string]string) // of a thread
	closed := make(map[string]bool)   // by leader
	pending := make(map[string]bool)  // threads in a clone of a thread
	of := func(thread string) string {
		if l, ok := leader[thread]; ok {
			return l
		}
		return thread
	}
	born := func(parent, line string) {
		m := returned.FindStringSubmatch(line)
		if m == nil {
			return
		}
		child := m[1]
		if m[2] != "" {
			child = m[2]
		}
		leader[child] = of(parent)
	}
	for line := range strings.Lines(trace) {
		line = strings.TrimSpace(line)
		if m := resumed.FindStringSubmatch(line); m != nil {
			if pending[m[1]] && m[2] == "clone" {
				born(m[1], line)
				delete(pending, m[1])
			}
			continue
		}
		m := begins.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		thread, c := m[1], call{name: m[2]}
		if strings.HasPrefix(c.name, "syscall_0xffffffff") {
			continue // the thread was killed as it entered: the number is an errno's
		}
		c.args = arguments(m[3])
		if c.name == "clone" {
			c.args = [6]uint64{}
			if f := cloneFlags.FindStringSubmatch(m[3]); f != nil {
				c.args[0] = number(f[1])
			}
			if c.args[0]&cloneThread != 0 {
				if strings.Contains(line, "<unfinished") {
					pending[thread] = true
				} else {
					born(thread, line)
				}
			}
		}
		if c.name == "tgkill" && c.args[0] == number(of(thread)) {
			c.args[0] = firstPID // a process in our own PID namespace
		}
		if closed[of(thread)] {
			calls = append(calls, c)
		}
		if c.name == "seccomp" && c.args[0] == setFilter && c.args[1]&flagThread != 0 && !closed[of(thread)] {
			closed[of(thread)] = true
			processes++
		}
	}
	return calls, processes
}

// arguments splits at the commas that are in no brackets or strings.
func arguments(text string) (args [6]uint64) {
	depth, start, n := 0, 0, 0
	quoted := false
	for i := 0; i < len(text) && n < len(args); i++ {
		switch c := text[i]; {
		case quoted:
			if c == '\\' {
				i++
			} else if c == '"' {
				quoted = false
			}
			continue
		case c == '"':
			quoted = true
			continue
		case c == '(' || c == '[' || c == '{':
			depth++
			continue
		case c == ')' && depth == 0, c == ',' && depth == 0, c == '<' && depth == 0:
			args[n] = number(strings.TrimSpace(text[start:i]))
			n++
			start = i + 1
			if c != ',' {
				return args
			}
		case c == ')' || c == ']' || c == '}':
			depth--
		}
	}
	return args
}

func number(text string) uint64 {
	text, _, _ = strings.Cut(text, " ")
	if one, more, ok := strings.Cut(text, "|"); ok { // a type and its flags
		return number(one) | number(more)
	}
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return uint64(n)
	}
	n, _ := strconv.ParseUint(text, 0, 64) // no number: 0
	return n
}
