package guest

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"runv.dev/runv/agent/client"
)

// TestSuspend takes the streams of a busy process away and gives it others, again
// and again: not a byte is lost or doubled, in either direction.
func TestSuspend(t *testing.T) {
	h := newHarness(t)
	options := client.StdioOptions{Stdin: true, Stdout: true, Stderr: true}
	s, err := client.NewStdio(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	spec := defaultSpec("sh", "-c", "i=0; while read line; do i=$((i+1)); echo $line $i; done; echo end >&2; exit 5")
	if _, err := h.client.Create(h.ctx, client.CreateOptions{ID: "c1", Spec: marshal(t, spec), RootfsTag: h.rootfs, Stdio: s}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Suspend(h.ctx, "c1", 0); err == nil {
		t.Error("a container that is not started was suspended")
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	// What comes of a round has to have room in a stream that nobody reads, also
	// line by line: the kernel counts some 768 bytes for each.
	const linesOfRound = 100
	var want, got strings.Builder
	lines := 0
	for round := range 6 {
		var sent uint64
		for range linesOfRound {
			lines++
			n, err := fmt.Fprintf(s.Stdin, "line %d\n", lines)
			if err != nil {
				t.Fatal(err)
			}
			sent += uint64(n)
			fmt.Fprintf(&want, "line %d %d\n", lines, lines)
		}
		written, err := h.client.Suspend(h.ctx, "c1", sent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(&got, s.Stdout, int64(written.Stdout)-int64(got.Len())); err != nil {
			t.Fatal(err)
		}
		o := client.AttachOptions{ID: "c1", Clone: &client.Clone{Time: time.Now()}}
		old := s
		if round%2 == 0 {
			// As after a restore: the old streams end in an error.
			if s, err = client.NewStdio(options); err != nil {
				t.Fatal(err)
			}
			o.Stdio = s
			old.Close()
			if err := h.client.OpenStdio(h.ctx, s); err != nil {
				t.Fatal(err)
			}
		}
		base, _, err := h.client.Attach(h.ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		if base != written {
			t.Errorf("attached after %+v, suspended after %+v", base, written)
		}
		if round%2 != 0 {
			// What follows is counted anew only with a new stream.
			if s, err = client.NewStdio(options); err != nil {
				t.Fatal(err)
			}
			if _, err := h.client.Suspend(h.ctx, "c1", sent); err != nil {
				t.Fatal(err)
			}
			if err := h.client.OpenStdio(h.ctx, s); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.client.Attach(h.ctx, client.AttachOptions{ID: "c1", Stdio: s}); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(old.Stdout)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(rest)
		}
	}
	if err := client.CloseWrite(s.Stdin); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(&got, s.Stdout); err != nil {
		t.Fatal(err)
	}
	last, err := io.ReadAll(s.Stderr)
	if err != nil || string(last) != "end\n" {
		t.Errorf("stderr %q, %v", last, err)
	}
	if got.String() != want.String() {
		t.Errorf("%d bytes came, %d were expected", got.Len(), want.Len())
	}
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.Code != 5 || exit.StdoutBytes != uint64(want.Len()) {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if _, err := h.client.Suspend(h.ctx, "c1", 0); err == nil {
		t.Error("a container that has ended was suspended")
	}
}

// TestSuspendRefused: whoever does not read, or is elsewhere, is named, and the
// container goes on.
func TestSuspendRefused(t *testing.T) {
	h := newHarness(t)
	s, err := client.NewStdio(client.StdioOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	spec := defaultSpec("sh", "-c", "read line; head -c 8388608 /dev/zero; exit 3")
	if _, err := h.client.Create(h.ctx, client.CreateOptions{ID: "c1", Spec: marshal(t, spec), RootfsTag: h.rootfs, Stdio: s}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Exec(h.ctx, client.ExecOptions{ContainerID: "c1", ExecID: "e1", Process: marshal(t, defaultSpec("sleep", "1000").Process)}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Suspend(h.ctx, "c1", 0); err == nil || !strings.Contains(err.Error(), "exec") {
		t.Errorf("with another process: %v", err)
	}
	if err := h.client.Signal(h.ctx, "c1", "e1", 9); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Wait(h.ctx, "c1", "e1"); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(s.Stdin); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.Stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// Until what lies between is full, nobody has to read.
	for err = nil; err == nil; {
		if _, err = h.client.Suspend(h.ctx, "c1", 1); err != nil {
			break
		}
		if _, _, err := h.client.Attach(h.ctx, client.AttachOptions{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(err.Error(), "output") {
		t.Errorf("with output that nobody reads: %v", err)
	}
	n, err := io.Copy(io.Discard, s.Stdout)
	if err != nil || n != 8388608-1 {
		t.Errorf("%d more bytes, %v", n, err)
	}
	if exit, err := h.client.Wait(h.ctx, "c1", ""); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}
