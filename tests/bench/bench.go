package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/bench/report"
)

// bench is the measurement of one part.
type bench struct {
	options
	report.Report
	part     string
	dir      string // in memory, and for this run only
	runtimes []*runtime
}

func newBench(o options, part string, runtimes []*runtime) (*bench, error) {
	dir, err := os.MkdirTemp("/run", "runv-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, part: part, dir: dir, runtimes: runtimes}
	for _, r := range runtimes {
		b.Programs = append(b.Programs, r.name)
		r.dir = dir
		// None is read from a slower file system than another.
		path := filepath.Join(dir, r.name)
		if err := copyFile(path, r.path, 0o755); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		r.path = path
	}
	return b, nil
}

// add adds a sample whose ratio to that of crun means something.
func (b *bench) add(name, unit, program string, value float64) {
	b.addBeside(base, name, unit, program, value)
}

// addBeside adds a sample. More is better of what is counted per second.
func (b *bench) addBeside(base, name, unit, program string, value float64) {
	m := report.Measurement{Part: b.part, Name: name, Unit: unit, More: strings.HasSuffix(unit, "/s"), Base: base}
	b.Add(m, program, value)
}

// fail notes a failure, once for all of the part: that runtime has no more turns.
func (b *bench) fail(program string, err error) {
	reason := oneLine(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", program, reason)
	b.Fail(b.part, program, reason)
}

// oneLine is an error's text, with lines that are there several times once.
func oneLine(err error) string {
	var lines []string
	count := make(map[string]int)
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			if count[line]++; count[line] == 1 {
				lines = append(lines, line)
			}
		}
	}
	for i, line := range lines {
		if n := count[line]; n > 1 {
			lines[i] = fmt.Sprintf("%s (%d times)", line, n)
		}
	}
	return strings.Join(lines, "; ")
}

func (b *bench) failed(program string) bool {
	return slices.ContainsFunc(b.Failures, func(f report.Failure) bool { return f.Program == program })
}

// err tells of the failures that are not a peer's.
func (b *bench) err() error {
	var list []error
	for _, f := range b.Failures {
		if strings.HasPrefix(f.Program, "runv") {
			list = append(list, fmt.Errorf("%s: %s: %s", f.Part, f.Program, f.Reason))
		}
	}
	return errors.Join(list...)
}

// inTurns gives each runtime its turn in every round, and another one the first
// turn each time. One that fails is left out from then on.
func (b *bench) inTurns(ctx context.Context, rounds int, turn func(context.Context, *runtime) error) error {
	for n := range rounds {
		for i := range b.runtimes {
			r := b.runtimes[(i+n)%len(b.runtimes)]
			if b.failed(r.name) {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s, round %d of %d: %s\n", b.part, n+1, rounds, r.name)
			err := turn(ctx, r)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				b.fail(r.name, err)
			}
		}
	}
	return nil
}

// buildTemplates has the runtimes that have templates build that for a bundle.
func (b *bench) buildTemplates(ctx context.Context, bundle string) {
	for _, r := range b.runtimes {
		if !r.template {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: %s builds a template\n", b.part, r.name)
		if _, err := r.command(ctx, "template", "build", "--bundle", bundle); err != nil {
			b.fail(r.name, err)
		}
	}
}

// host describes where it runs.
func host(part string, rounds int, began time.Time) report.Run {
	run := report.Run{
		Part: part, Rounds: rounds, CPUs: goruntime.NumCPU(), Host: os.Getenv("RUNV_IN_TEST_HOST"),
		Began: began.UTC().Truncate(time.Second), Seconds: time.Since(began).Round(time.Second).Seconds(),
	}
	if m, err := readMeminfo(); err == nil {
		run.Memory = int(m["MemTotal"] >> 20)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		run.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return run
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
