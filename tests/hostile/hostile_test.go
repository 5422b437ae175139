// Package hostile has guests that attack the VMM: programs without an operating
// system which drive the real devices by hand. README.md has how to add one.
package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a VM's process may have at most, beside the guest's memory.
const (
	maxHeap     = 96 << 20
	maxThreads  = 40
	maxFiles    = 2*maxDescriptors + 64
	maxLogLines = 60
	maxLogBytes = 16 << 10
	// maxRSS is beyond the guest's own memory, of which few guests touch all.
	maxRSS = 160 << 20
	// slowestAnswer is what a neighbour may need under attack: a generous
	// bound, as all share the processors of a small machine.
	slowestAnswer = 20 * time.Second
)

func TestMain(m *testing.M) {
	if name, ok := inGuest(); ok {
		fakeAgent(name)
	}
	if encoded := os.Getenv(jobVariable); encoded != "" {
		os.Exit(runVM(encoded))
	}
	os.Exit(m.Run())
}

// exits translates a case's option into the VMM's word.
var exits = map[string][]string{
	"reset":    {"reset by the guest"},
	"shutdown": {"triple fault in the guest"},
	"stopped":  {"stopped"},
	// What a processor makes of nonsense depends on the processor.
	"dead": {"triple fault in the guest", "KVM internal error"},
}

// row is a line of the table of results.
type row struct {
	testCase
	outcome
	answers int64
	slowest time.Duration
	failed  bool
}

// TestHostile runs the cases: all of them, but where QEMU emulates a host's
// processors, which takes ten times as long, a fifth of each class. RUNV_HOSTILE_ALL
// has all run there, too.
func TestHostile(t *testing.T) {
	needKVM(t)
	kernel := buildGuest(t)
	n, err := newNeighbour("/dev/kvm", kernel, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	t.Cleanup(func() {
		close(n.monitor.enough)
		if err := <-n.ended; err != nil {
			t.Error(err)
		}
		must(t, n.vm.Close())
	})
	var rows []row
	all := cases(t)
	every, seen := 1, map[string]int{}
	if strings.HasPrefix(os.Getenv("RUNV_IN_TEST_HOST"), "tcg") && os.Getenv("RUNV_HOSTILE_ALL") == "" {
		every = 5
	}
	for _, c := range all {
		if c.Hidden {
			continue
		}
		seen[c.Class]++
		if seen[c.Class]%every != 1%every {
			continue
		}
		t.Run(c.Class+"/"+c.Name, func(t *testing.T) {
			r := row{testCase: c}
			defer func() {
				r.failed = t.Failed()
				rows = append(rows, r)
			}()
			attack(t, kernel, n, &r)
		})
	}
	if path := os.Getenv("RUNV_HOSTILE_TABLE"); path != "" {
		must(t, os.WriteFile(path, []byte(table(rows)), 0o644))
	}
	t.Logf("%d cases\n%s", len(rows), table(rows))
}

// attack runs a case in a process of its own.
func attack(t *testing.T, kernel string, n *neighbour, r *row) {
	dir := newTree(t)
	w := watch(t, dir)
	defer w.close()
	before, readOnly := checksum(t, dir, "rw"), checksum(t, filepath.Join(dir, "ro"), "")
	w.seen(t) // what checksum and newTree did
	n.since()

	p := start(t, job{Kernel: kernel, Case: r.testCase, Dir: dir})
	r.outcome = p.wait(t)
	for deadline := time.Now().Add(slowestAnswer); n.answers.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	r.answers, r.slowest = n.since()

	if events := w.seen(t); len(events) > 0 {
		t.Errorf("outside of the share: %v", events)
	}
	for _, d := range append(difference(before, checksum(t, dir, "rw")), difference(readOnly, checksum(t, filepath.Join(dir, "ro"), ""))...) {
		t.Errorf("outside of the share: %s", d)
	}
	check(t, r, p)
}

// check holds an outcome against what every case promises.
func check(t *testing.T, r *row, p *vmProcess) {
	t.Helper()
	if r.Error != "" {
		t.Error(r.Error)
	}
	if want := exits[r.testCase.Exit]; !slices.Contains(want, r.outcome.Exit) {
		t.Errorf("the VM ended: %s: %s; want: %q; the guest says: %s", r.outcome.Exit, r.Detail, want, r.Said)
	}
	if r.testCase.Exit == "reset" {
		if !r.Passed {
			t.Errorf("the guest: %s", r.Said)
		}
		if r.QuietAfter < 0 {
			t.Error("the VM's process stays busy after the attack")
		}
	}
	for _, e := range r.Errors {
		t.Errorf("an error was logged: %s", e)
	}
	for _, bound := range []struct {
		what       string
		is, atMost uint64
	}{
		{"bytes of heap", r.HeapBytes, maxHeap},
		{"descriptors", uint64(r.Files[1]), maxFiles},
		{"descriptors in the end", uint64(r.Files[2]), uint64(r.Files[0])},
		{"goroutines in the end", uint64(r.Goroutines[1]), uint64(r.Goroutines[0] + readAhead)},
		{"lines of log", uint64(r.LogLines), maxLogLines},
		{"bytes of log", uint64(r.LogBytes), maxLogBytes},
		{"threads", p.threads, maxThreads},
		{"KiB of memory", p.rss, (maxRSS + r.MemoryMiB<<20) >> 10},
		{"milliseconds for a neighbour's answer", uint64(r.slowest.Milliseconds()), uint64(slowestAnswer.Milliseconds())},
	} {
		if bound.is > bound.atMost {
			t.Errorf("%d %s; at most %d", bound.is, bound.what, bound.atMost)
		}
	}
	if r.answers == 0 {
		t.Error("the neighbour did not answer at all")
	}
}

// vmProcess is a VM's process, as seen from outside.
type vmProcess struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	threads, rss   uint64 // most, rss in KiB
	done           chan error
}

func start(t *testing.T, j job) *vmProcess {
	t.Helper()
	encoded, err := json.Marshal(j)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	p := &vmProcess{cmd: exec.Command(self), done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), jobVariable+"="+string(encoded))
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	must(t, p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	return p
}

// wait samples the process until it has ended, and returns what it reports.
func (p *vmProcess) wait(t *testing.T) (o outcome) {
	t.Helper()
	limit := time.After(caseLimit + 2*closeLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-p.done:
			if err != nil {
				t.Fatalf("the VM's process: %v\n%s", err, p.stderr.String())
			}
			if p.stderr.Len() > 0 {
				t.Errorf("the VM's process wrote: %.2000s", p.stderr.String())
			}
			must(t, json.Unmarshal(p.stdout.Bytes(), &o))
			return o
		case <-tick.C:
			p.threads = max(p.threads, p.status("Threads:"))
			p.rss = max(p.rss, p.status("VmRSS:"))
		case <-limit:
			p.cmd.Process.Kill()
			t.Fatalf("the VM's process does not end: %v", <-p.done)
		}
	}
}

func (p *vmProcess) status(key string) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\n"+key)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[0], 10, 64)
	return n
}

// table shows the results as Markdown.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| case | the guest | what happened | ms | log lines | neighbour's slowest answer, ms |\n| --- | --- | --- | ---: | ---: | ---: |\n")
	for _, r := range rows {
		what := r.outcome.Exit
		switch {
		case r.failed:
			what = "FAILED: " + what
		case r.FirstLine != "":
			what = strings.ReplaceAll(r.FirstLine, "|", "\\|")
		case r.Passed:
			what = "served, or refused without a word"
		}
		fmt.Fprintf(&b, "| %s/%s | %s | %s | %.0f | %d | %.1f |\n", r.Class, r.Name, r.What, what,
			r.Milliseconds, r.LogLines, float64(r.slowest.Microseconds())/1000)
	}
	return b.String()
}

// needKVM skips where there is no KVM of any kind: the tests are repeated on
// the test host, which always has one.
func needKVM(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		if os.Getenv("RUNV_IN_TEST_HOST") != "" {
			t.Fatal(err)
		}
		t.Skipf("no KVM here; runs on the test host: %v", err)
	}
	f.Close()
}

// TestWatcher shows that a touched neighbour is seen.
func TestWatcher(t *testing.T) {
	for name, touch := range map[string]func(dir string) error{
		"read": func(dir string) error {
			_, err := os.ReadFile(filepath.Join(dir, "rw", "link"))
			return err
		},
		"write":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "neighbour/sub/file"), nil, 0o644) },
		"create": func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		"remove": func(dir string) error { return os.Remove(filepath.Join(dir, "rw", "link.dir", "file")) },
		"rename": func(dir string) error {
			return os.Rename(filepath.Join(dir, "rw", "file"), filepath.Join(dir, "neighbour/stolen"))
		},
		"list": func(dir string) error {
			_, err := os.ReadDir(filepath.Join(dir, "neighbour"))
			return err
		},
		"chmod": func(dir string) error { return os.Chmod(filepath.Join(dir, "rw", "link"), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newTree(t)
			w := watch(t, dir)
			defer w.close()
			sums := checksum(t, dir, "rw")
			w.seen(t)
			must(t, touch(dir))
			if len(w.seen(t)) == 0 {
				t.Error("the watcher saw nothing")
			}
			changed := !slices.Contains([]string{"read", "list"}, name)
			if diff := difference(sums, checksum(t, dir, "rw")); changed != (len(diff) > 0) {
				t.Errorf("checksums differ in %v", diff)
			}
		})
	}
	dir := newTree(t)
	w := watch(t, dir)
	defer w.close()
	must(t, os.WriteFile(filepath.Join(dir, "rw", "file"), nil, 0o644))
	if events := w.seen(t); len(events) > 0 {
		t.Errorf("a change in the share counts as one outside: %v", events)
	}
}
