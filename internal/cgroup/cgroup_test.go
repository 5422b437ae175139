package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake makes a directory with control files.
func fake(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestFrozen(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  bool
	}{
		{"running", map[string]string{freezeFile: "0\n", eventsFile: "populated 1\nfrozen 0\n"}, false},
		{"frozen", map[string]string{freezeFile: "1\n", eventsFile: "populated 1\nfrozen 1\n"}, true},
		{"about to be", map[string]string{freezeFile: "1\n", eventsFile: "populated 1\nfrozen 0\n"}, true},
		{"by one above", map[string]string{freezeFile: "0\n", eventsFile: "populated 1\nfrozen 1\n"}, true},
		{"no freezer", map[string]string{eventsFile: "populated 1\n"}, false},
		{"gone", nil, false},
	} {
		if got := Frozen(fake(t, tt.files)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if Frozen("") {
		t.Error("no cgroup is frozen")
	}
}

// TestFreeze: the answer is taken from cgroup.events and not from what was
// written.
func TestFreeze(t *testing.T) {
	dir := fake(t, map[string]string{freezeFile: "0", eventsFile: "populated 1\nfrozen 0\n"})
	err := Freeze(dir, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Errorf("Freeze() of what does not stop: %v", err)
	}
	if got := read(t, dir, freezeFile); got != "0" {
		t.Errorf("after a failure the cgroup is left with %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, eventsFile), []byte("populated 1\nfrozen 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Freeze(dir, time.Millisecond); err != nil || read(t, dir, freezeFile) != "1" {
		t.Errorf("Freeze() = %v, wrote %q", err, read(t, dir, freezeFile))
	}
	if err := Thaw(dir, time.Millisecond); err == nil || !strings.Contains(err.Error(), "above") {
		t.Errorf("Thaw() below a frozen cgroup: %v", err)
	}
	// The change comes while it is waited for.
	done := make(chan error)
	go func() { done <- Thaw(dir, time.Minute) }()
	events, err := os.OpenFile(filepath.Join(dir, eventsFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if _, err := events.WriteString("populated 1\nfrozen 0\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || read(t, dir, freezeFile) != "0" {
		t.Errorf("Thaw() = %v, wrote %q", err, read(t, dir, freezeFile))
	}
	old := fake(t, map[string]string{eventsFile: "populated 1\n"})
	if err := Freeze(old, time.Millisecond); err == nil || !strings.Contains(err.Error(), "no freezer") {
		t.Errorf("without a freezer: %v", err)
	}
}

// TestAwait: what is waited for is asked about again, also when the cgroup goes.
func TestAwait(t *testing.T) {
	dir := fake(t, map[string]string{freezeFile: "1", eventsFile: "populated 1\nfrozen 1\n"})
	asked := 0
	if err := Await(dir, func() bool { asked++; return asked == 3 }); err != nil || asked != 3 {
		t.Errorf("Await() = %v, asked %d times", err, asked)
	}
	for _, tt := range []struct {
		name string
		done bool
	}{{"gone and done", true}, {"gone", false}} {
		err := Await(filepath.Join(dir, "none"), func() bool { return tt.done })
		if (err == nil) != tt.done {
			t.Errorf("%s: Await() = %v", tt.name, err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, eventsFile), 0); err != nil {
		t.Fatal(err)
	}
	if err := Await(dir, func() bool { return false }); err == nil {
		t.Error("Await() of a cgroup that tells nothing succeeded")
	}
}

func TestFigures(t *testing.T) {
	dir := fake(t, map[string]string{
		"memory.max":            "max\n",
		"pids.current":          "12\n",
		"cpu.stat":              "usage_usec 10\nuser_usec 7\nbroken\nsystem_usec x\n",
		"cpuset.cpus.effective": "0-2,5\n",
		"io.stat":               "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n259:0 rbytes=5\n",
		"cpu.pressure":          "some avg10=0.50 avg60=1.25 avg300=0.00 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
	})
	for _, tt := range []struct {
		file string
		want uint64
		ok   bool
	}{
		{"memory.max", None, true}, {"pids.current", 12, true}, {"cpu.stat", 0, false}, {"missing", 0, false},
	} {
		if n, ok := Value(dir, tt.file); n != tt.want || ok != tt.ok {
			t.Errorf("Value(%s) = %d, %v; want %d, %v", tt.file, n, ok, tt.want, tt.ok)
		}
	}
	if got := Table(dir, "cpu.stat"); !reflect.DeepEqual(got, map[string]uint64{"usage_usec": 10, "user_usec": 7}) {
		t.Errorf("Table() = %v", got)
	}
	if got := Set(dir, "cpuset.cpus.effective"); !slices.Equal(got, []uint16{0, 1, 2, 5}) {
		t.Errorf("Set() = %v", got)
	}
	if got := Set(dir, "missing"); got != nil {
		t.Errorf("Set() of no file = %v", got)
	}
	want := []Device{
		{8, 16, map[string]uint64{"rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4, "dbytes": 0, "dios": 0}},
		{259, 0, map[string]uint64{"rbytes": 5}},
	}
	if got := IO(dir); !reflect.DeepEqual(got, want) {
		t.Errorf("IO() = %v", got)
	}
	some, full, ok := Pressures(dir, "cpu.pressure")
	if !ok || some != (Pressure{0.5, 1.25, 0, 4711}) || full.Total != 12 {
		t.Errorf("Pressures() = %+v, %+v, %v", some, full, ok)
	}
	if _, _, ok := Pressures(dir, "io.pressure"); ok {
		t.Error("Pressures() of no file")
	}
}
