//go:build integration && !cgo

package cage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLandlock closes a whole cage around a process that keeps a descriptor of a
// directory outside of the share, and then does there and in the share what a
// file server does. It needs a kernel with Landlock.
func TestLandlock(t *testing.T) {
	if _, _, err := landlockABI(); err != nil {
		t.Fatalf("this host lacks what is to be tested: %v", err)
	}
	for _, variant := range []string{"writable", "readonly"} {
		t.Run(variant, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"outside", "share/a", "share/b"} {
				if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"outside/file", "share/a/file", "share/a/other"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("/proc/self/exe", "caged", variant+"/landlock")
			cmd.Env = append(os.Environ(), "CAGE_DIR="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := make(map[string]string)
			for line := range strings.Lines(string(out)) {
				name, result, _ := strings.Cut(strings.TrimSpace(line), ": ")
				got[name] = result
			}
			for _, s := range landlockSteps {
				want := s.writable
				if variant == "readonly" {
					want = s.readonly
				}
				if want == "" {
					want = "ok"
				}
				if want != "-" && got[s.name] != want {
					t.Errorf("%s: %q; want %q", s.name, got[s.name], want)
				}
			}
		})
	}
}

const denied = "permission denied"

// landlockSteps say what must come of each in either cage; empty is success and
// - is not tried.
var landlockSteps = []struct {
	name               string
	writable, readonly string
	try                func(outside, share int) error
}{
	{"read outside", denied, denied, func(o, _ int) error { return open(o, "file", unix.O_RDONLY) }},
	{"write outside", denied, denied, func(o, _ int) error { return open(o, "file", unix.O_WRONLY) }},
	{"list outside", denied, denied, func(o, _ int) error { return open(o, ".", unix.O_RDONLY|unix.O_DIRECTORY) }},
	{"create outside", denied, denied, func(o, _ int) error { return open(o, "new", unix.O_CREAT|unix.O_WRONLY) }},
	{"above", denied, denied, func(o, _ int) error { return open(o, "..", unix.O_RDONLY|unix.O_DIRECTORY) }},
	{"remove outside", denied, "-", func(o, _ int) error { return unix.Unlinkat(o, "file", 0) }},
	{"rename to the outside", denied, "-", func(o, s int) error { return unix.Renameat2(s, "a/file", o, "file2", 0) }},
	{"link to the outside", denied, "-", func(o, s int) error { return unix.Linkat(s, "a/file", o, "file2", 0) }},

	{"read", "", "", func(_, s int) error { return open(s, "a/file", unix.O_RDONLY) }},
	{"list", "", "", func(_, s int) error { return open(s, "a", unix.O_RDONLY|unix.O_DIRECTORY) }},
	{"write", "", denied, func(_, s int) error { return open(s, "a/file", unix.O_WRONLY) }},
	{"truncate", "", denied, func(_, s int) error { return open(s, "a/file", unix.O_WRONLY|unix.O_TRUNC) }},
	{"create", "", denied, func(_, s int) error { return open(s, "a/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) }},
	{"tmpfile", "", denied, func(_, s int) error { return open(s, "a", unix.O_TMPFILE|unix.O_WRONLY) }},
	{"mkdir", "", "-", func(_, s int) error { return unix.Mkdirat(s, "a/dir", 0o777) }},
	{"fifo", "", "-", func(_, s int) error { return unix.Mknodat(s, "a/fifo", unix.S_IFIFO|0o600, 0) }},
	{"socket", "", "-", func(_, s int) error { return unix.Mknodat(s, "a/socket", unix.S_IFSOCK|0o600, 0) }},
	{"symlink", "", "-", func(_, s int) error { return unix.Symlinkat("/etc/passwd", s, "a/link") }},
	{"link between directories", "", "-", func(_, s int) error { return unix.Linkat(s, "a/file", s, "b/hard", 0) }},
	{"rename between directories", "", "-", func(_, s int) error { return unix.Renameat2(s, "a/other", s, "b/other", 0) }},
	{"exchange between directories", "", "-", func(_, s int) error {
		return unix.Renameat2(s, "a/file", s, "b/other", unix.RENAME_EXCHANGE)
	}},
	{"whiteout", "", "-", func(_, s int) error {
		err := unix.Mknodat(s, "a/whiteout", unix.S_IFCHR, 0)
		if err == unix.EPERM {
			return nil // the file system's own refusal
		}
		return err
	}},
	{"remove a directory", "", "-", func(_, s int) error { return unix.Unlinkat(s, "a/dir", unix.AT_REMOVEDIR) }},
	{"remove", "", "-", func(_, s int) error { return unix.Unlinkat(s, "b/hard", 0) }},
}

func open(dir int, name string, flags int) error {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func init() { cagedLandlock = landlockInside }

// landlockInside is the process in the cage.
func landlockInside(variant string) error {
	dir := os.Getenv("CAGE_DIR")
	outside, err := unix.Open(dir+"/outside", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	share, err := unix.Open(dir+"/share", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Chroot(dir + "/share"); err != nil {
		return err
	}
	abi, err := Close(variants[variant])
	if err != nil {
		return err
	}
	if abi < minLandlock {
		return fmt.Errorf("landlock ABI %d", abi)
	}
	for _, s := range landlockSteps {
		if variant == "readonly" && s.readonly == "-" {
			continue
		}
		result := "ok"
		if err := s.try(outside, share); err != nil {
			result = err.Error()
		}
		fmt.Printf("%s: %s\n", s.name, result)
	}
	return nil
}
