package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzState has anything in a state.json: it is refused, or makes a state whose
// verbs do no harm.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"id":"x","status":"running","process":{"pid":1,"startTime":1}}`))
	f.Add([]byte(`{"id":"x","status":"creating","creator":{"pid":-1},"cgroup":"/../../etc"}`))
	f.Add([]byte(`{"id":"x","created":"0000-00-00T00:00:00Z"}`))
	f.Add([]byte(`{"id":"x","status":"paused","machine":{"vcpus":-1},"limits":{"memory":{"limit":-9}}}`))
	f.Add([]byte(`{"id":"x`))
	f.Add([]byte(`[[[[`))
	root := filepath.Join(f.TempDir(), "root")
	store := NewStore(root)
	c, err := store.Create("x")
	if err != nil {
		f.Fatal(err)
	}
	if err := c.Unlock(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(root, "x", stateName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		state, err := store.Peek("x")
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("Peek = %v", err)
			}
			return
		}
		if state.ID != "x" {
			t.Errorf("id %q", state.ID)
		}
		if oci := state.OCI(); oci.Pid < 0 && oci.Status != "stopped" {
			t.Errorf("%s with pid %d", oci.Status, oci.Pid)
		}
	})
}

// FuzzParseStat has anything in /proc/PID/stat, of which the command is what a
// process calls itself.
func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (runv) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"))
	f.Add([]byte("42 () Z 1) S ("))
	f.Fuzz(func(t *testing.T, data []byte) {
		if state, _, err := parseStat(data); err != nil && state != 0 {
			t.Errorf("state %c and %v", state, err)
		}
	})
}
