//go:build !cgo

// Changing the privileges of every thread is only possible without cgo, which
// is how the runtime is built.

package sandbox

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"runv.dev/runv/internal/cage"
)

func TestConfine(t *testing.T) {
	p, log := launch(t, "confine", nil)
	b := bootstrap()
	score := 321
	b.Plan.Spec.Process.OOMScoreAdj = &score
	if _, err := p.Create(b); err != nil {
		t.Fatalf("%v: %s", err, log())
	}
	want := uint64(0)
	for _, capability := range (&cage.Options{Network: true}).Capabilities() {
		want |= 1 << capability
	}
	got := log()
	threads := 0
	for line := range strings.Lines(got) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "CapEff", "CapPrm":
			threads++
			if value != fmt.Sprintf("%016x", want) {
				t.Errorf("%s is %s; want %016x", name, value, want)
			}
		case "CapBnd", "CapInh", "CapAmb":
			if value != "0000000000000000" {
				t.Errorf("%s is %s; want none", name, value)
			}
		case "NoNewPrivs":
			if value != "1" {
				t.Error("a thread without no_new_privs")
			}
		case "Seccomp":
			if value != "2" {
				t.Error("a thread without a filter")
			}
		}
	}
	if threads < 4 {
		t.Errorf("%d sets of capabilities seen", threads)
	}
	if !strings.Contains(got, "score 321\n") {
		t.Error("no OOM score")
	}
	for line := range strings.Lines(got) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "Max core file size") && fields[4] != "0" {
			t.Errorf("core dumps: %q", line)
		}
	}
	// Dumpable off: the files of the process belong to root alone, and not to
	// its user; tracing needs CAP_SYS_PTRACE.
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
