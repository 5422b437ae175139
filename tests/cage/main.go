// Command cage compares the list of system calls that a VM process may make with
// those it made: tests/cage/run traces the integration tests and hands the traces
// over.
//
//	cage TRACE...
//
// A trace is what strace -f -X raw --decode-pids=pidns writes. It prints how often
// each call was made after the cage was closed, and fails if one is allowed that
// was not, unless the list says why it may be rare.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/cage"
)

// firstPID is what a VM process calls itself in a new PID namespace.
const firstPID = 1

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: cage TRACE...")
		os.Exit(2)
	}
	var calls []call
	processes := 0
	for _, name := range os.Args[1:] {
		data, err := os.ReadFile(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		c, n := caged(string(data))
		calls = append(calls, c...)
		processes += n
	}
	fmt.Printf("%d traces, %d caged processes, %d system calls\n", len(os.Args)-1, processes, len(calls))
	if processes == 0 {
		fmt.Fprintln(os.Stderr, "no trace of a cage: nothing was compared")
		os.Exit(2)
	}
	if !report(calls) {
		os.Exit(1)
	}
}

// report prints the calls and what of the list was not among them. It tells
// whether that is as it should be.
func report(calls []call) bool {
	count := make(map[string]int)
	for _, c := range calls {
		count[c.name]++
	}
	names := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return count[b] - count[a] })
	for _, name := range names {
		fmt.Printf("%8d %s\n", count[name], name)
	}
	good := true
	used := make(map[string]bool) // with conditions, by name and their number
	o := cage.Options{Network: true, DeviceNodes: true}
	// Where device nodes are forbidden the rules of mknodat have conditions.
	plain := cage.Options{Network: true}
	groups := append(o.Groups(firstPID), plain.Groups(firstPID)...)
	for _, c := range calls {
		allowed := false
		for _, g := range groups {
			for _, r := range g.Rules {
				if !slices.Contains(r.Calls, c.name) {
					continue
				}
				if r.When == nil {
					allowed = true
					used[c.name] = true
				}
				for _, when := range r.When {
					if holds(when, c.args) {
						allowed = true
						used[key(c.name, when)] = true
					}
				}
			}
		}
		if !allowed {
			fmt.Printf("not allowed: %s%v\n", c.name, c.args)
			good = false
		}
	}
	for _, g := range plain.Groups(firstPID) {
		for _, r := range g.Rules {
			if r.Refuse {
				continue // it allows nothing
			}
			for _, unused := range unusedOf(r, used) {
				if r.Rare != "" {
					fmt.Printf("unused: %s (%s): %s\n", unused, g.Purpose, r.Rare)
					continue
				}
				fmt.Printf("UNUSED: %s (%s)\n", unused, g.Purpose)
				good = false
			}
		}
	}
	return good
}

func key(name string, when cage.Condition) string { return fmt.Sprintf("%s %v", name, when) }

// unusedOf lists what of a rule was not used.
func unusedOf(r cage.Rule, used map[string]bool) []string {
	var list []string
	for _, name := range r.Calls {
		if r.When == nil && !used[name] {
			list = append(list, name)
		}
		for _, when := range r.When {
			if !used[key(name, when)] {
				list = append(list, key(name, when))
			}
		}
	}
	return list
}

// holds tests the arguments of a call.
func holds(when cage.Condition, args [6]uint64) bool {
	for _, arg := range when {
		value := args[arg.Index]
		switch arg.Op {
		case specs.OpEqualTo:
			if value != arg.Value {
				return false
			}
		case specs.OpMaskedEqual:
			if value&arg.Value != arg.ValueTwo&arg.Value {
				return false
			}
		default:
			panic("an operator the list does not use: " + strings.ToLower(string(arg.Op)))
		}
	}
	return true
}
