package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// victim makes a store with a container x that is created, and has the path of
// its state.
func victim(t *testing.T) (*Store, string) {
	t.Helper()
	store := NewStore(filepath.Join(t.TempDir(), "root"))
	c, err := store.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	c.State.Status = specs.StateCreated
	if err := errors.Join(c.Save(), c.Unlock()); err != nil {
		t.Fatal(err)
	}
	return store, filepath.Join(c.Dir(), stateName)
}

// TestHostileState has a state directory as somebody else, or an accident,
// would leave it. No verb may block, follow a link out, read without end, or
// believe it.
func TestHostileState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("changes owners: run it as root")
	}
	replace := func(path string, data []byte) error {
		return errors.Join(os.Remove(path), os.WriteFile(path, data, 0o600))
	}
	foreign, err := json.Marshal(State{ID: "x", Status: specs.StateRunning, Process: Process{PID: os.Getpid(), StartTime: 1}})
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(`{"id":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		spoil func(path string) error
		want  error // of Peek; nil: it is readable
	}{
		{"as it should be", func(string) error { return nil }, nil},
		{"another owner", func(p string) error { return os.Chown(p, 1000, 1000) }, ErrUntrusted},
		{"writable by all", func(p string) error { return os.Chmod(p, 0o666) }, ErrUntrusted},
		{"directory of another owner", func(p string) error { return os.Chown(filepath.Dir(p), 1000, 1000) }, ErrUntrusted},
		{"directory writable by the group", func(p string) error { return os.Chmod(filepath.Dir(p), 0o770) }, ErrUntrusted},
		{"root of another owner", func(p string) error { return os.Chown(filepath.Dir(filepath.Dir(p)), 1000, 1000) }, ErrUntrusted},
		{"root writable by all", func(p string) error { return os.Chmod(filepath.Dir(filepath.Dir(p)), 0o777) }, ErrUntrusted},
		{"root like /tmp", func(p string) error { return os.Chmod(filepath.Dir(filepath.Dir(p)), 0o777|os.ModeSticky) }, ErrUntrusted},
		{"empty", func(p string) error { return replace(p, nil) }, ErrDamaged},
		{"truncated", func(p string) error { return os.Truncate(p, 20) }, ErrDamaged},
		{"garbage", func(p string) error { return replace(p, bytes.Repeat([]byte{0xff, 0}, 5000)) }, ErrDamaged},
		{"another container's", func(p string) error { return replace(p, []byte(`{"id":"y"}`)) }, ErrDamaged},
		{"nested", func(p string) error { return replace(p, bytes.Repeat([]byte("["), 1<<20)) }, ErrDamaged},
		{"huge", func(p string) error { return os.Truncate(p, 1<<40) }, ErrDamaged},
		{"FIFO", func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }, ErrUntrusted},
		{"directory", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, ErrUntrusted},
		{"socket", func(p string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p + ".sock", Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return errors.Join(l.Close(), os.Rename(p+".sock", p))
		}, ErrUntrusted},
		{"endless device", func(p string) error {
			return errors.Join(os.Remove(p), unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}, ErrUntrusted},
		{"link", func(p string) error { return errors.Join(os.Remove(p), os.Symlink(outside, p)) }, ErrUntrusted},
		{"link to itself", func(p string) error { return errors.Join(os.Remove(p), os.Symlink(stateName, p)) }, ErrUntrusted},
		{"pid of a foreign process", func(p string) error { return replace(p, foreign) }, nil},
		{"absurd pid", func(p string) error {
			return replace(p, []byte(`{"id":"x","status":"running","process":{"pid":-1,"startTime":0}}`))
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, path := victim(t)
			if err := tc.spoil(path); err != nil {
				t.Fatal(err)
			}
			state, err := store.Peek("x")
			if !errors.Is(err, tc.want) {
				t.Fatalf("Peek = %v; want %v", err, tc.want)
			}
			if err == nil && state.Status == specs.StateRunning && state.Now() != specs.StateStopped {
				t.Errorf("a foreign process makes the container %s", state.Now())
			}
			c, err := store.Open("x")
			if !errors.Is(err, tc.want) {
				t.Errorf("Open = %v; want %v", err, tc.want)
			}
			switch {
			case c == nil:
				if _, err := store.DialAgent(context.Background(), "x", 1024); err == nil {
					t.Error("DialAgent succeeds")
				}
			case errors.Is(err, ErrUntrusted):
				c.Unlock()
			default:
				if err != nil && c.State.Process != (Process{}) {
					t.Error("a state that was refused has a process")
				}
				if err := c.Remove(); err != nil {
					t.Errorf("Remove = %v", err)
				}
				if _, err := store.Peek("x"); !errors.Is(err, ErrNotExist) {
					t.Errorf("after Remove: %v", err)
				}
			}
			if errors.Is(tc.want, ErrUntrusted) {
				if strings.ContainsRune(err.Error(), '\n') {
					t.Errorf("not one line: %v", err)
				}
				if _, err := store.Create("x"); err == nil {
					t.Error("Create takes it over")
				}
			}
		})
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != `{"id":"x"}` {
		t.Errorf("a file outside: %q, %v", data, err)
	}
}

// TestHostileDirectory has something else where a container's directory belongs.
func TestHostileDirectory(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, stateName), []byte(`{"id":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"link to a directory": func(p string) error { return os.Symlink(outside, p) },
		"dangling link":       func(p string) error { return os.Symlink(filepath.Join(outside, "new"), p) },
		"file":                func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"FIFO":                func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			store := NewStore(root)
			if err := make(filepath.Join(root, "x")); err != nil {
				t.Fatal(err)
			}
			for verb, do := range map[string]func() error{
				"Create": func() error { _, err := store.Create("x"); return err },
				"Open":   func() error { _, err := store.Open("x"); return err },
				"Peek":   func() error { _, err := store.Peek("x"); return err },
				"DialAgent": func() error {
					_, err := store.DialAgent(context.Background(), "x", 1024)
					return err
				},
			} {
				if err := do(); err == nil {
					t.Errorf("%s succeeds", verb)
				}
			}
			if states, _, err := store.List(); err != nil || len(states) != 0 {
				t.Errorf("List = %v, %v", states, err)
			}
		})
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
		t.Errorf("outside are now %v, %v", names, err)
	}
}

// TestSaveFollowsNoLink: a leftover of an interrupted Save is replaced, whatever
// it is.
func TestSaveFollowsNoLink(t *testing.T) {
	store, path := victim(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Symlink(outside, path+".tmp")); err != nil {
		t.Fatal(err)
	}
	c, err := store.Open("x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Unlock()
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(outside); err != nil || len(data) != 0 {
		t.Errorf("Save wrote %q outside, %v", data, err)
	}
}
