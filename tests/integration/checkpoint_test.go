//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// counting is a container's program: it answers each line of its input with the
// line and a number that it keeps in memory, and writes both to a file that it
// has open.
const counting = "exec 7>/kept; trap 'echo bye; exit 9' TERM; i=0; echo up; " +
	"while read line; do i=$((i+1)); echo $line $i; echo $line $i >&7; done; echo end; exit 5"

// TestCheckpoint saves a container, leaves it running, saves it again, and has it
// go on under another name: its memory, its open file and its streams are what
// they were.
func TestCheckpoint(t *testing.T) {
	noLeaks(t)
	b := bundle(t, []string{"sh", "-c", counting})
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	id := newID()
	c := inBackground(t, "run", "-b", b, id)
	c.out.wait(t, "up")
	ask := func(c *background, line, want string) {
		t.Helper()
		fmt.Fprintln(c.in, line)
		if got := c.out.wait(t, want); got != want {
			t.Fatalf("answer %q; want %q", got, want)
		}
	}
	ask(c, "a", "a 1")
	runv(t, nil, "checkpoint", "--leave-running", "--image-path", first, id).expect(t, "", "", 0)
	ask(c, "b", "b 2")
	runv(t, nil, "checkpoint", "--image-path", second, "--work-path", "/nowhere", id).expect(t, "", "", 0)
	if status := c.end(t); status != 137 {
		t.Errorf("the saved container's process ends with %d", status)
	}
	if r := runv(t, nil, "state", id); r.status == 0 {
		t.Errorf("the saved container is still there: %s", r.stdout)
	}
	kept := filepath.Join(b, "rootfs/kept")
	for _, image := range []string{second, second} {
		must(t, os.WriteFile(kept, []byte("a 1\nb 2\n"), 0o644)) // as it was
		// The same image elsewhere may lack what was only a mount point.
		must(t, os.Remove(filepath.Join(b, "rootfs/proc")))
		restored := newID()
		r := inBackground(t, "restore", "-b", b, "--image-path", image, restored)
		ask(r, "c", "c 3")
		ask(r, "d", "d 4")
		if got := stateOf(t, restored); got.Status != specs.StateRunning {
			t.Errorf("status %s", got.Status)
		}
		if e := runv(t, nil, "exec", restored, "sh", "-c", "cat /kept /proc/sys/kernel/ostype"); e.status != 0 || e.stdout != "a 1\nb 2\nc 3\nd 4\nLinux\n" {
			t.Fatalf("exec: %+v; the container: %s", e, r.stderr.String())
		}
		must(t, r.in.Close())
		r.out.wait(t, "end")
		if status := r.end(t); status != 5 {
			t.Errorf("the restored container ends with %d; %s", status, r.stderr.String())
		}
		data, err := os.ReadFile(kept)
		if err != nil || string(data) != "a 1\nb 2\nc 3\nd 4\n" {
			t.Errorf("the file that it has open: %q, %v", data, err)
		}
	}
	// The earlier one is of the same files, which are longer now.
	r := runv(t, nil, "restore", "-b", b, "--image-path", first, newID())
	if r.status == 0 || !strings.Contains(r.stderr, "/kept") {
		t.Errorf("files that have changed: status %d, %q", r.status, r.stderr)
	}
	must(t, os.WriteFile(kept, []byte("a 1\n"), 0o644))
	id = newID()
	again := inBackground(t, "restore", "-b", b, "--image-path", first, id)
	ask(again, "z", "z 2")
	runv(t, nil, "kill", id, "TERM").expect(t, "", "", 0)
	fmt.Fprintln(again.in)
	if status := again.end(t); status != 9 {
		t.Errorf("the trap of a restored process: %d", status)
	}
}

// TestCheckpointRefused: what would be lost is an error, after which the container
// goes on.
func TestCheckpointRefused(t *testing.T) {
	noLeaks(t)
	b := bundle(t, []string{"sh", "-c", "exec 8>/gone; rm /gone; " + counting})
	image := filepath.Join(t.TempDir(), "image")
	id := newID()
	c := inBackground(t, "run", "-b", b, id)
	c.out.wait(t, "up")
	refused := func(want string, args ...string) {
		t.Helper()
		r := runv(t, nil, append(append([]string{"checkpoint", "--image-path", image}, args...), id)...)
		if r.status == 0 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("status %d, %q; want %q", r.status, r.stderr, want)
		}
		if entries, err := os.ReadDir(image); err == nil && len(entries) > 0 {
			t.Errorf("left in the directory: %v", entries)
		}
	}
	refused("/gone")
	refused("--pre-dump", "--pre-dump")
	refused("--parent-path", "--parent-path", "..")
	other := inBackground(t, "exec", id, "cat")
	fmt.Fprintln(other.in, "there")
	other.out.wait(t, "there")
	refused("exec")
	must(t, other.in.Close())
	other.end(t)
	runv(t, nil, "pause", id).expect(t, "", "", 0)
	refused("paused")
	runv(t, nil, "resume", id).expect(t, "", "", 0)
	fmt.Fprintln(c.in, "a")
	c.out.wait(t, "a 1")
	must(t, c.in.Close())
	if status := c.end(t); status != 5 {
		t.Errorf("status %d", status)
	}
}

// TestRestoreRefused: an image that is damaged, or of another VM, is refused by
// name, and nothing is left.
func TestRestoreRefused(t *testing.T) {
	noLeaks(t)
	b := bundle(t, []string{"sh", "-c", counting})
	image := filepath.Join(t.TempDir(), "image")
	id := newID()
	c := inBackground(t, "run", "-b", b, id)
	c.out.wait(t, "up")
	runv(t, nil, "checkpoint", "--image-path", image, id).expect(t, "", "", 0)
	c.end(t)
	for _, tc := range []struct {
		name, file, want string
		change           func(data []byte) []byte
		args             []string
	}{
		{"no image", "", "no checkpoint", nil, []string{"--image-path", filepath.Join(image, "..")}},
		{"state cut off", "runv.state", "damaged", func(d []byte) []byte { return d[:len(d)/2] }, nil},
		{"flipped bit in the state", "runv.state", "checksum", func(d []byte) []byte { d[len(d)/2] ^= 1; return d }, nil},
		{"memory cut off", "runv.memory", "damaged", func(d []byte) []byte { return d[:len(d)-1] }, nil},
		{"flipped bit in the memory", "runv.memory", "checksum", func(d []byte) []byte { d[len(d)/2] ^= 1; return d }, nil},
		{"connections", "", "--tcp-established", nil, []string{"--tcp-established"}},
		{"lazy pages", "", "--lazy-pages", nil, []string{"--lazy-pages"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.file != "" {
				path := filepath.Join(image, tc.file)
				data, err := os.ReadFile(path)
				must(t, err)
				must(t, os.WriteFile(path, tc.change(append([]byte(nil), data...)), 0o600))
				defer os.WriteFile(path, data, 0o600)
			}
			args := append([]string{"restore", "-b", b, "--image-path", image}, tc.args...)
			r := runv(t, nil, append(args, newID())...)
			if r.status == 0 || !strings.Contains(r.stderr, tc.want) || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("status %d, %q; want %q", r.status, r.stderr, tc.want)
			}
		})
	}
}
