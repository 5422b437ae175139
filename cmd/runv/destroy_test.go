package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/logging"
)

// TestDestroyUnfinished: a runtime that was killed before it could say that it has
// made the cgroup leaves none, and takes nobody else's.
func TestDestroyUnfinished(t *testing.T) {
	for _, c := range []struct {
		name       string
		make, busy bool
		left       bool
	}{
		{"before it was made", false, false, false},
		{"after it was made", true, false, false},
		{"somebody's", true, true, true},
	} {
		g := &globals{root: filepath.Join(t.TempDir(), "root"), log: logging.New(io.Discard, true, slog.LevelInfo)}
		path := filepath.Join(t.TempDir(), "cgroup")
		for dir, want := range map[string]bool{path: c.make, filepath.Join(path, "below"): c.busy} {
			if want {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		killed, err := g.store().Create("killed")
		if err != nil {
			t.Fatal(err)
		}
		killed.State = container.State{ID: "killed", CgroupPlanned: path}
		if err := g.destroy(killed); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := os.Stat(path); (err == nil) != c.left {
			t.Errorf("%s: %v", c.name, err)
		}
		if left, err := os.ReadDir(g.root); err != nil || len(left) != 0 {
			t.Errorf("%s: the state: %v, %v", c.name, left, err)
		}
	}
}
