//go:build integration

package hostile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/bundle"
)

// product is the real runtime, with an empty program as the container's.
type product struct{ *bundle.Bundle }

func newProduct(t *testing.T, flags ...string) product {
	t.Helper()
	p := product{bundle.New(t, "/bin/true")}
	p.Flags = flags
	must(t, os.WriteFile(filepath.Join(p.Rootfs(), "bin/true"), nil, 0o755))
	return p
}

// end waits for the end and checks what every end has to be like: one bounded
// printable line of error, and nothing left behind.
func end(t *testing.T, r *bundle.Run) (status int) {
	t.Helper()
	status = r.End(t)
	text := strings.TrimSuffix(r.Stderr.String(), "\n")
	if len(text) > 10<<10 || strings.ContainsAny(text, "\n\x00\x1b\r") {
		t.Errorf("%d bytes of errors, or not one printable line: %.500q", len(text), text)
	}
	t.Logf("status %d after %.1f s: %.300s", status, time.Since(r.Begun).Seconds(), text)
	return status
}

// agentInitrd is a guest's root with this program as its first process.
func agentInitrd(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	program, err := os.ReadFile(self)
	must(t, err)
	var b bytes.Buffer
	ino := 0
	add := func(name string, mode int, data []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("case", 0o100644, []byte(name))
	add("init", 0o100755, program)
	add("TRAILER!!!", 0, nil)
	path := filepath.Join(t.TempDir(), "initrd")
	must(t, os.WriteFile(path, b.Bytes(), 0o644))
	return path
}

// TestAgent has a hostile agent in the guest of the real runtime.
func TestAgent(t *testing.T) {
	const (
		byItself  = iota
		terminate // SIGTERM to `runv run` ends it
		kill      // `runv kill --all KILL` does
	)
	for _, tc := range []struct {
		name   string
		end    int
		status int    // -1: any but 0
		stderr string // part of it
	}{
		{"no-hello", terminate, -1, ""},
		{"gone", byItself, -1, "guest died"},
		{"no-listener", byItself, -1, ""},
		{"hello-garbage", byItself, -1, "hello"},
		{"hello-silent", byItself, -1, "wait for the agent"},
		{"dial-flood", kill, 137, ""},
		{"close-at-once", byItself, -1, "lost the agent"},
		{"frame-oversized", byItself, -1, "protocol"},
		{"frame-flood", byItself, -1, "protocol"},
		{"read-nothing", terminate, -1, ""},
		{"streams-closed", kill, -1, ""},
		{"streams-silent", kill, 137, ""},
		{"create-silent", terminate, -1, ""},
		{"create-pid-0", byItself, -1, "pid 0"},
		{"create-error-text", byItself, -1, "all is well"},
		{"create-warnings", kill, 137, ""},
		{"start-silent", terminate, -1, ""},
		{"start-gone", byItself, -1, "lost the agent"},
		{"exit-code-256", byItself, 255, "exit code 256"},
		{"exit-signal-99", byItself, 255, "signal 99"},
		{"exit-undrained", terminate, -1, ""},
		{"exit-two-answers", byItself, 7, ""},
		{"exit-forged-oom", byItself, 137, ""},
		{"output-endless", kill, 137, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProduct(t, "--initrd", agentInitrd(t, tc.name))
			// Nobody reads this output.
			_, w, err := os.Pipe()
			must(t, err)
			defer w.Close()
			r := p.Run(t, w)
			switch tc.end {
			case terminate:
				p.settle(t, r, false)
				// A slow host may have run into the runtime's own limit.
				if err := r.Cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				// A container that was created gets the signal, and this one
				// does nothing with it.
				select {
				case err := <-r.Done:
					r.Done <- err
				case <-time.After(20 * time.Second):
					_ = p.Command("kill", p.ID, "KILL").Run() // it may have ended now
				}
			case kill:
				p.settle(t, r, true)
				if len(r.Done) > 0 { // the runtime has noticed by itself
					break
				}
				p.checkMemory(t)
				if out, err := p.Command("kill", p.ID, "KILL").CombinedOutput(); err != nil {
					t.Errorf("kill: %v: %s", err, out)
				}
			}
			status := end(t, r)
			if tc.status >= 0 && status != tc.status || status == 0 {
				t.Errorf("status %d; want %d", status, tc.status)
			}
			if !strings.Contains(r.Stderr.String(), tc.stderr) {
				t.Errorf("stderr %.500q; want %q", r.Stderr.String(), tc.stderr)
			}
		})
	}
}

// TestSuspend saves containers whose agent lies about how they were brought to
// rest, or does not let them go on.
func TestSuspend(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stderr string // part of what checkpoint says; empty: it succeeds
		ends   bool   // and the container with it
	}{
		{"suspend-more", "nobody reads", false},
		{"suspend-silent", "deadline", false},
		{"suspend-gone", "checkpoint", true},
		{"attach-silent", "", false},
		{"attach-error", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProduct(t, "--initrd", agentInitrd(t, tc.name))
			r := p.Run(t, nil)
			p.settle(t, r, true)
			image := filepath.Join(t.TempDir(), "image")
			var stderr bytes.Buffer
			save := p.Command("checkpoint", "--leave-running", "--image-path", image, p.ID)
			save.Stderr = &stderr
			begun := time.Now()
			err := save.Run()
			t.Logf("after %.1f s: %v: %.300s", time.Since(begun).Seconds(), err, stderr.String())
			if failed := err != nil; failed != (tc.stderr != "") || !strings.Contains(stderr.String(), tc.stderr) || strings.Count(stderr.String(), "\n") > 1 {
				t.Errorf("checkpoint: %v: %q; want %q", err, stderr.String(), tc.stderr)
			}
			if _, err := os.Stat(image); tc.stderr != "" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a failed checkpoint left its image: %v", err)
			}
			if !tc.ends {
				if out, err := p.Command("kill", p.ID, "KILL").CombinedOutput(); err != nil {
					t.Errorf("kill: %v: %s", err, out)
				}
			}
			if status := end(t, r); status == 0 {
				t.Error("status 0")
			}
		})
	}
}

// settle waits until the container is as far as this agent lets it come: until
// it runs, or nothing changes for a while.
func (p product) settle(t *testing.T, r *bundle.Run, runs bool) {
	t.Helper()
	last := specs.ContainerState("")
	deadline := time.Now().Add(bundle.Limit)
	for same := 0; (same < 12 || runs) && time.Now().Before(deadline); same++ {
		var s specs.State
		if out, err := p.Command("state", p.ID).Output(); err == nil && json.Unmarshal(out, &s) == nil && s.Status != last {
			last, same = s.Status, 0
		}
		if last == specs.StateRunning && same > 3 {
			return
		}
		select {
		case err := <-r.Done:
			r.Done <- err
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// checkMemory: what a guest sends and nobody reads is not hoarded.
func (p product) checkMemory(t *testing.T) {
	t.Helper()
	out, err := p.Command("state", p.ID).Output()
	must(t, err)
	var s specs.State
	must(t, json.Unmarshal(out, &s))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	if most := (256<<20 + maxRSS) >> 10; kib > most {
		t.Errorf("the VM process has %d KiB; at most %d", kib, most)
	}
}

// TestKernel has guests without an agent, or without a kernel that deserves the
// name, in the real runtime.
func TestKernel(t *testing.T) {
	guest, err := filepath.Abs(buildGuest(t))
	must(t, err)
	junk := filepath.Join(t.TempDir(), "junk")
	must(t, os.WriteFile(junk, bytes.Repeat([]byte("junk"), 1<<20), 0o644))
	for name, tc := range map[string]struct{ kernel, stderr string }{
		"resets at once": {guest, "guest died"},
		"junk":           {junk, "ELF"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProduct(t, "--kernel", tc.kernel)
			r := p.Run(t, nil)
			if status := end(t, r); status == 0 {
				t.Error("status 0")
			}
			if !strings.Contains(r.Stderr.String(), tc.stderr) {
				t.Errorf("stderr %.500q; want %q", r.Stderr.String(), tc.stderr)
			}
		})
	}
}

// TestMountTargets has destinations that are links out of the root, and a mount
// that only the host can make read-only.
func TestMountTargets(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("untouched"), 0o644))
	for name, target := range map[string]string{
		"absolute": outside, "relative": "../../../../../../../../../.." + outside, "chain": "link2", "proc": "/proc/self/root" + outside,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProduct(t, "--initrd", agentInitrd(t, "exit-two-answers"))
			must(t, os.Symlink(target, filepath.Join(p.Dir, "rootfs/link")))
			must(t, os.Symlink(outside, filepath.Join(p.Dir, "rootfs/link2")))
			source := t.TempDir()
			must(t, os.WriteFile(filepath.Join(source, "mark"), nil, 0o644))
			p.Spec.Root.Readonly = false
			for _, destination := range []string{"/link", "/link/new", "/link/file"} {
				p.Spec.Mounts = append(p.Spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "ro"}})
			}
			before := checksum(t, outside, "")
			r := p.Run(t, nil)
			end(t, r)
			if diff := difference(before, checksum(t, outside, "")); len(diff) > 0 {
				t.Errorf("outside: %v", diff)
			}
		})
	}
}
