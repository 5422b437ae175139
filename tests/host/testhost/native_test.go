//go:build integration

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// These run where KVM is real, so that a native host is what one gets.

func runNative(t *testing.T, o *options, in string, args ...string) (out string, status int) {
	t.Helper()
	t.Setenv("RUNV_TEST_HOST", kindNative)
	h, err := startHost(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.kill()
	if h.kind != kindNative {
		t.Fatalf("host of kind %q", h.kind)
	}
	var stdout bytes.Buffer
	s := newSession(h.conn, stdio{strings.NewReader(in), &stdout, os.Stderr})
	c, err := newCommand(args, h.kind)
	if err != nil {
		t.Fatal(err)
	}
	status, err = s.run(c)
	if err != nil {
		t.Error(err)
	}
	return stdout.String(), status
}

func TestNativeStatusAndStreams(t *testing.T) {
	out, status := runNative(t, &options{}, "in", "sh", "-c", `cat; echo " $$ $RUNV_IN_TEST_HOST $(hostname)"; exit 7`)
	f := strings.Fields(out)
	if status != 7 || len(f) != 4 || f[0] != "in" || f[2] != kindNative || f[3] != "testhost" {
		t.Errorf("status %d, output %q", status, out)
	}
	if len(f) == 4 && len(f[1]) > 3 {
		t.Errorf("process id %s: not a process namespace of its own", f[1])
	}
}

func TestNativeKeepsOnlyShares(t *testing.T) {
	share, err := os.MkdirTemp("/var/lib", "runv-share ,:") // separators of mount options
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(share)
	kept, lost := filepath.Join(share, "kept"), "/var/lib/runv-lost"
	_, status := runNative(t, &options{shares: []string{share}}, "", "sh", "-c",
		`echo yes >"$1" && chown 12:34 "$1" && echo no >"$2" && rm /etc/hostname`, "sh", kept, lost)
	if status != 0 {
		t.Errorf("status %d", status)
	}
	if b, err := os.ReadFile(kept); err != nil || string(b) != "yes\n" {
		t.Errorf("share: %q, %v", b, err)
	}
	if _, err := os.Lstat(lost); err == nil {
		t.Errorf("%s outlived the host", lost)
	}
	if _, err := os.Stat("/etc/hostname"); err != nil {
		t.Errorf("a removal outlived the host: %v", err)
	}
}

func TestNativeEnvironment(t *testing.T) {
	out, status := runNative(t, &options{}, "", "sh", "-ec", `
		test -c /dev/kvm; test -c /dev/ptmx; test -c /dev/pts/ptmx
		for d in /tmp /run /dev/shm /var/lib/containers; do touch $d/x; done
		test -e /sys/fs/cgroup/cgroup.controllers
		cat /sys/class/net/lo/operstate; ls /sys/class/net; ls /proc | grep -c '^[0-9]'`)
	f := strings.Fields(out)
	if status != 0 || len(f) < 3 || f[1] != "lo" {
		t.Errorf("status %d, output %q; want only lo", status, out)
	}
}

// Nothing of a killed host stays: its processes go with its namespace.
func TestNativeKill(t *testing.T) {
	t.Setenv("RUNV_TEST_HOST", kindNative)
	h, err := startHost(context.Background(), &options{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	ready, out := io.Pipe()
	s := newSession(h.conn, stdio{strings.NewReader(""), out, io.Discard})
	c, err := newCommand([]string{"sh", "-c", "setsid sleep 4321 & echo up; wait"}, h.kind)
	if err != nil {
		t.Fatal(err)
	}
	go s.run(c)
	if _, err := ready.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	h.kill()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range cmdlines {
		if b, err := os.ReadFile(f); err == nil && bytes.HasPrefix(b, []byte("sleep\x004321")) {
			t.Errorf("%s outlived its host", f)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("the mount table changed from\n%s\nto\n%s", before, after)
	}
}
