package main

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"runv.dev/runv/tests/bench/report"
)

func TestParseRuntime(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want *runtime
	}{
		{"crun=/usr/bin/crun", &runtime{name: "crun", path: "/usr/bin/crun", options: []string{}}},
		{"runv=/b/runv,--templates,off", &runtime{name: "runv", path: "/b/runv", options: []string{"--templates", "off"}}},
		{"crun", nil}, {"crun=", nil}, {"=/usr/bin/crun", nil}, {"../x=/usr/bin/crun", nil},
	} {
		got, err := parseRuntime(tt.in)
		if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("parseRuntime(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestCounts(t *testing.T) {
	for in, want := range map[string][]int{
		"1": {1}, "1,20,100": {1, 20, 100}, "": nil, "0": nil, "2,1": nil, "1,1": nil, "1,x": nil,
	} {
		got, err := counts(in)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("counts(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestParseFigures(t *testing.T) {
	got := parseFigures("stream\t200.0\tMiB/s\nnoise\na\tb\tc\nanswer\t10.5\tus")
	if want := []figure{{"stream", 200, "MiB/s"}, {"answer", 10.5, "us"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

func TestParseKiB(t *testing.T) {
	got := parseKiB("55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:    884 kB\nPss:        385 kB\nHugePages_Total:       3\nBad: -1 kB\n")
	if want := map[string]uint64{"Rss": 884 << 10, "Pss": 385 << 10}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

// The memory of the test's own process is there, and that of old ones is not.
func TestLookAtMemory(t *testing.T) {
	all, err := lookAtMemory(map[int]bool{})
	if err != nil {
		t.Fatal(err)
	}
	if all.pss < 1*mib || all.available < 1*mib || len(all.processes) == 0 {
		t.Errorf("PSS %v, available %v, %d processes", all.pss, all.available, len(all.processes))
	}
	none, err := lookAtMemory(nil)
	if err != nil || none.pss != 0 {
		t.Errorf("without a look before: PSS %v, %v", none.pss, err)
	}
}

func TestReadStages(t *testing.T) {
	log := `{"time":"2026-01-01T00:00:00.1Z","msg":"stage","verb":"planned"}
{"time":"2026-01-01T00:00:00.2Z","msg":"stage","stage":"run"}
{"time":"2026-01-01T00:00:00.3Z","msg":"time=x msg=agent version=1","from":"guest"}
{"time":"2026-01-01T00:00:00.4Z","msg":"stage","stage":"created"}
{"time":"2026-01-01T00:00:00.5Z","msg":"stage","stage":"created"}
`
	stages, err := readStages(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range stages {
		got = append(got, s.name)
	}
	want := []string{"until planned", "until the guest's first instruction", agentSpoke, "until created (VM process)"}
	if !slices.Equal(got, want) || stages[2].at.Sub(stages[0].at) != 200*time.Millisecond {
		t.Errorf("%q; want %q", got, want)
	}
	for _, bad := range []string{"", `{"msg":"stage","verb":"planned"}`, "{"} {
		if _, err := readStages(strings.NewReader(bad)); err == nil {
			t.Errorf("%q has the agent's first line", bad)
		}
	}
}

func TestAtOnce(t *testing.T) {
	var running, most, calls atomic.Int32
	err := atOnce(20, 3, func(i int) error {
		now := running.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		calls.Add(1)
		defer running.Add(-1)
		if i == 7 {
			return errors.New("seven")
		}
		return nil
	})
	if err == nil || err.Error() != "seven" || calls.Load() != 20 || most.Load() > 3 {
		t.Errorf("%v, %d calls, %d at once", err, calls.Load(), most.Load())
	}
}

// Who fails has no further turn, others do, each round begins with another, and
// only a failure of runv is one of the benchmark.
func TestInTurns(t *testing.T) {
	b := &bench{part: "test", runtimes: []*runtime{{name: "crun"}, {name: "runc"}, {name: "runv"}}}
	var turns []string
	turn := func(_ context.Context, r *runtime) error {
		turns = append(turns, r.name)
		if r.name == "runc" {
			return errors.New("not\ntoday")
		}
		return nil
	}
	if err := b.inTurns(t.Context(), 2, turn); err != nil {
		t.Fatal(err)
	}
	if want := []string{"crun", "runc", "runv", "runv", "crun"}; !slices.Equal(turns, want) {
		t.Errorf("turns %v; want %v", turns, want)
	}
	if want := []report.Failure{{Part: "test", Program: "runc", Reason: "not; today"}}; !slices.Equal(b.Failures, want) {
		t.Errorf("failures %v; want %v", b.Failures, want)
	}
	if err := b.err(); err != nil {
		t.Errorf("a peer's failure is the benchmark's: %v", err)
	}
	b.fail("runv-boot", errors.New("no"))
	if err := b.err(); err == nil {
		t.Error("a failure of runv is nobody's")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.inTurns(ctx, 1, turn); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestOneLine(t *testing.T) {
	err := errors.Join(errors.New("late"), errors.New("gone\n\n"), errors.New("late"))
	if got, want := oneLine(err), "late (2 times); gone"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestCommand(t *testing.T) {
	r := &runtime{name: "sh", path: "/bin/sh", options: nil, dir: t.TempDir()}
	// The shell takes --root for an option it does not know.
	if _, err := r.command(t.Context(), "run"); err == nil || !strings.HasPrefix(err.Error(), "run: exit status 2: ") {
		t.Errorf("%v", err)
	}
	r.path = "/bin/echo"
	done, err := r.command(t.Context(), "run", "x")
	if want := "--root " + r.dir + "/state-sh run x\n"; err != nil || done.stdout != want || done.took <= 0 {
		t.Errorf("%+v, %v; want %q", done, err, want)
	}
}
