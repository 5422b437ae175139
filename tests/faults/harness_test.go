//go:build integration

// Package faults has hosts that fail: the runtime ends with one clear line or
// goes on, and leaves nothing behind.
package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/bundle"
)

// newBundle has a script for busybox.
func newBundle(t *testing.T, script string) *bundle.Bundle {
	t.Helper()
	b := bundle.New(t, "/bin/busybox", "sh", "-c", script)
	b.Spec.Root.Readonly = false
	addBusybox(t, b.Rootfs())
	return b
}

func addBusybox(t *testing.T, rootfs string) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755))
}

// oneLine checks that the runtime itself said one line, and that it has want.
func oneLine(t *testing.T, r *bundle.Run, want string) {
	t.Helper()
	text := strings.TrimSuffix(r.Stderr.String(), "\n")
	if strings.ContainsRune(text, '\n') || !strings.HasPrefix(text, "runv: ") || !strings.Contains(text, want) {
		t.Errorf("stderr %.1000q; want one line with %q", text, want)
	}
}

// tmpfs mounts one of the given size.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
