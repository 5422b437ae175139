// Package fstest is what tests of the file server have in common, in the
// process that serves as in a guest.
package fstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// POSIX runs go-fuse's conformance tests and a few more, each in a directory that
// mount returns.
func POSIX(t *testing.T, mount func(t *testing.T) string) {
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			// It expects a process's POSIX lock to conflict with its own,
			// which no file system does, and upstream does not run it.
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, mount(t)) })
	}
	for name, test := range calls {
		t.Run(name, func(t *testing.T) { test(t, mount(t)) })
	}
}

// imageSize is the size of a file system for tests, most of it never written.
const imageSize = 256 << 20

// UseLargeXattrs has t.TempDir, for the rest of the test, return directories of
// a new file system with room for extended attributes of 64 KiB, which few
// file systems have. It needs root, loop devices and mkfs.ext4, and comes before
// anything else that calls t.TempDir.
func UseLargeXattrs(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fstest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, imageSize); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run("mkfs.ext4", "-q", "-O", "ea_inode", image); err != nil {
		t.Fatal(err)
	}
	if err := run("mount", "-t", "ext4", "-o", "loop", image, mnt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("umount", mnt); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", mnt)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
