package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// said runs workloads and has the names and units of what they say.
func said(t *testing.T, args ...string) ([]string, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stdout := os.Stdout
	os.Stdout = f
	failed := run(args)
	os.Stdout = stdout
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 3 {
			t.Fatalf("it says %q", line)
		}
		names = append(names, fields[0]+", "+fields[2])
	}
	return names, failed
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"read", "random"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 3*block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := said(t, dir, "random", "read")
	want := []string{
		"sequential read, first time, MiB/s", "sequential read, again, MiB/s",
		"random read of 4 KiB, first time, µs", "random read of 4 KiB, again, µs",
	}
	if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "usage"}, {[]string{t.TempDir(), "nap"}, "nap"}, {[]string{t.TempDir(), "read"}, "no such file"},
		{[]string{t.TempDir(), "untar"}, "tree.tar"},
	} {
		if got, err := said(t, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) || len(got) > 0 {
			t.Errorf("%q: %q, %v; want an error about %q", tt.args, got, err, tt.want)
		}
	}
}
