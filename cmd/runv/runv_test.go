package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/logging"
)

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]unix.Signal{
		"TERM": 15, "SIGTERM": 15, "sigterm": 15, "9": 9, "0": 0, "KILL": 9, "64": 64,
		"RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX": 64, "RTMAX-1": 63,
	} {
		if got, err := parseSignal(in); got != want || err != nil {
			t.Errorf("parseSignal(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "65", "-1", "SIG", "NOPE", "RTMIN-1", "RTMAX+1", "RTMIN3", "9x"} {
		if got, err := parseSignal(in); err == nil {
			t.Errorf("parseSignal(%q) = %d; want an error", in, got)
		}
	}
}

func TestReport(t *testing.T) {
	var log bytes.Buffer
	g := &globals{log: logging.New(&log, true, slog.LevelInfo)}
	stderr := os.Stderr
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Stderr = f
	g.logFile = f // only whether there is one counts
	g.report(errors.Join(errors.New("first"), errors.New("second")))
	os.Stderr = stderr
	got, err := os.ReadFile(f.Name())
	if err != nil || string(got) != "runv: first; second\n" {
		t.Errorf("stderr %q, %v", got, err)
	}
	if !strings.Contains(log.String(), `"level":"error"`) || !strings.Contains(log.String(), `"msg":"first; second"`) {
		t.Errorf("log %q", log.String())
	}
}

func TestExitErrors(t *testing.T) {
	if withStatus(0) != nil {
		t.Error("status 0 is an error")
	}
	if err := withStatus(3); errorOf(err) != nil {
		t.Error("a container's exit status would be reported as an error of ours")
	}
	err := fmt.Errorf("op: %w", &exitError{status: 127, err: errors.New("not found")})
	var exit *exitError
	if !asExit(err, &exit) || exit.status != 127 || errorOf(err) == nil || err.Error() != "op: not found" {
		t.Errorf("%v", err)
	}
}

func TestWritePIDFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pid")
	for _, pid := range []int{123456, 1} {
		if err := writePIDFile(path, pid); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != fmt.Sprint(pid) {
			t.Errorf("%q, %v", got, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := writePIDFile(filepath.Join(dir, "missing/pid"), 1); err == nil || !strings.Contains(err.Error(), "--pid-file") {
		t.Errorf("into a directory that does not exist: %v", err)
	}
}

// TestHelp: every verb explains itself by an example.
func TestHelp(t *testing.T) {
	var g globals
	for _, command := range commands(&g) {
		if !strings.Contains(command.Description, "Example") || !strings.Contains(command.Description, "runv "+command.Name) || command.Usage == "" {
			t.Errorf("%s has no example", command.Name)
		}
	}
}

func TestCheckRootfs(t *testing.T) {
	dir := t.TempDir()
	if err := checkRootfs(dir); err != nil {
		t.Errorf("an empty directory: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "not a directory", filepath.Join(dir, "missing"): "no such directory"} {
		if err := checkRootfs(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}

// TestFilterKilled: the end of a VM process by its filter is told apart.
func TestFilterKilled(t *testing.T) {
	for script, want := range map[string]struct {
		status int
		err    error
	}{
		"kill -SYS $$": {128 + 31, cage.ErrKilled},
		"kill -9 $$":   {128 + 9, nil},
		"exit 159":     {159, nil},
	} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		status, err := waitForwarding(cmd.Process, nil)
		if status != want.status || !errors.Is(err, want.err) {
			t.Errorf("%s: %d, %v; want %d, %v", script, status, err, want.status, want.err)
		}
	}
}
