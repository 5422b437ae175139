package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The program builds without a warning, runs, and is cleaned up.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	if err := writeProgram(dir); err != nil {
		t.Fatal(err)
	}
	before, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"make", "-s", "-j4"}, {"./program"}, {"make", "-s", "clean"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || args[0] == "make" && len(out) > 0 {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	if after, err := filepath.Glob(dir + "/*"); err != nil || len(after) != len(before) || len(before) != programFiles+3 {
		t.Errorf("%d files before, %d after: %v", len(before), len(after), err)
	}
}
