package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// parse reads an archive back.
func parse(t *testing.T, archive []byte) (names []string, members map[string][]byte, modes map[string]uint64) {
	t.Helper()
	members, modes = make(map[string][]byte), make(map[string]uint64)
	for {
		if len(archive) < headerSize || string(archive[:6]) != magic {
			t.Fatalf("no header after %q", names)
		}
		field := func(i int) uint64 {
			v, err := strconv.ParseUint(string(archive[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := string(archive[headerSize : headerSize+nameSize-1])
		if archive[headerSize+nameSize-1] != 0 {
			t.Fatalf("name %q does not end in NUL", name)
		}
		body := (headerSize + nameSize + 3) &^ 3
		names = append(names, name)
		members[name], modes[name] = archive[body:body+size], mode
		archive = archive[(body+size+3)&^3:]
		if name == "TRAILER!!!" {
			if len(archive) != 0 {
				t.Fatalf("%d bytes after the trailer", len(archive))
			}
			return names, members, modes
		}
	}
}

func TestArchive(t *testing.T) {
	for size := range 9 {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			agent := bytes.Repeat([]byte{'a'}, size)
			var out bytes.Buffer
			if err := write(&out, entries(agent)); err != nil {
				t.Fatal(err)
			}
			names, members, modes := parse(t, out.Bytes())
			want := "dev proc sys root container dev/console dev/null init TRAILER!!!"
			if got := strings.Join(names, " "); got != want {
				t.Errorf("members %q; want %q", got, want)
			}
			if !bytes.Equal(members["init"], agent) {
				t.Errorf("init is %q; want %q", members["init"], agent)
			}
			if modes["init"] != 0o100755 || modes["dev"] != 0o040755 || modes["dev/console"] != 0o020600 {
				t.Errorf("modes %v", modes)
			}
		})
	}
}

func TestReproducible(t *testing.T) {
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	var sums [2][sha256.Size]byte
	for i := range sums {
		// The time and mode of the agent's file must not matter.
		if err := os.WriteFile(agent, []byte("agent"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(agent, os.FileMode(0o600+0o100*i)); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, fmt.Sprint("out", i))
		if err := run(out, agent); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(content)
	}
	if sums[0] != sums[1] {
		t.Error("two archives of one agent differ")
	}
	if list, err := filepath.Glob(filepath.Join(dir, ".mkinitrd-*")); err != nil || len(list) > 0 {
		t.Errorf("left behind: %q, %v", list, err)
	}
}

func TestRunErrors(t *testing.T) {
	dir := t.TempDir()
	if err := run(filepath.Join(dir, "out"), filepath.Join(dir, "missing")); !os.IsNotExist(err) {
		t.Errorf("missing agent: %v", err)
	}
	if err := run(filepath.Join(dir, "no", "out"), "/proc/self/exe"); !os.IsNotExist(err) {
		t.Errorf("missing directory: %v", err)
	}
}

// TestCpio has the system's cpio read the archive.
func TestCpio(t *testing.T) {
	var out bytes.Buffer
	if err := write(&out, entries([]byte("agent"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("busybox", "cpio", "-t")
	cmd.Stdin = &out
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(string(list)), " "); got != "dev proc sys root container dev/console dev/null init" {
		t.Errorf("cpio lists %q", got)
	}
}
