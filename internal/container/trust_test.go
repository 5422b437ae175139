package container

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTrust: what another user could have put there is not believed, by no way
// in, and the error says what it is.
func TestTrust(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test changes owners: run it as root")
	}
	const other = 1000
	for _, tt := range []struct {
		name, want string
		// tamper gets the root directory and the container's.
		tamper func(root, dir string) error
	}{
		{"root of another user", "belongs to user 1000", func(root, _ string) error { return os.Chown(root, other, -1) }},
		{"root that all may write to", "others may write", func(root, _ string) error { return os.Chmod(root, 0o777) }},
		{"directory of another user", "belongs to user 1000", func(_, dir string) error { return os.Chown(dir, other, -1) }},
		{"directory that a group may write to", "others may write", func(_, dir string) error { return os.Chmod(dir, 0o720) }},
		{"state of another user", "belongs to user 1000", func(_, dir string) error { return os.Chown(filepath.Join(dir, stateName), other, -1) }},
		{"state that all may write to", "others may write", func(_, dir string) error { return os.Chmod(filepath.Join(dir, stateName), 0o666) }},
		{"state that leads elsewhere", "symbolic link", func(_, dir string) error {
			path := filepath.Join(dir, stateName)
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		}},
		{"state that is a FIFO", "another type", func(_, dir string) error {
			path := filepath.Join(dir, stateName)
			return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			store := NewStore(root)
			c, err := store.Create("x")
			if err != nil {
				t.Fatal(err)
			}
			c.save(t)
			if err := c.Unlock(); err != nil {
				t.Fatal(err)
			}
			if err := tt.tamper(root, filepath.Join(root, "x")); err != nil {
				t.Fatal(err)
			}
			check := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v; want %q", what, err, tt.want)
				}
			}
			c, err = store.Open("x")
			check("Open", err)
			if c != nil {
				t.Error("Open gives a container")
			}
			_, err = store.Peek("x")
			check("Peek", err)
		})
	}
}

func TestTrustAgent(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		tamper     func(dir string) error
	}{
		{"directory that all may write to", "others may write", func(dir string) error { return os.Chmod(dir, 0o777) }},
		{"socket of another user", "belongs to user 1000", func(dir string) error { return os.Chown(filepath.Join(dir, agentName), 1000, -1) }},
		{"symbolic link", "another type", func(dir string) error {
			path := filepath.Join(dir, agentName)
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "x")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(dir, agentName))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := tt.tamper(dir); err != nil {
				t.Fatal(err)
			}
			conn, err := NewStore(root).DialAgent(context.Background(), "x", 1024)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}
