package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

// TestStdinToStdout sends much more than any buffer holds through a process.
func TestStdinToStdout(t *testing.T) {
	h := newHarness(t)
	const size = 64 << 20
	var seed [32]byte
	source := io.LimitReader(rand.NewChaCha8(seed), size)
	sent := sha256.New()
	s, err := client.NewStdio(client.StdioOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, defaultSpec("cat")), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	// Streams may come after the request as well.
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.Copy(s.Stdin, io.TeeReader(source, sent))
		client.CloseWrite(s.Stdin)
	}()
	received := sha256.New()
	n, err := io.Copy(received, s.Stdout)
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v; want %d", n, err, size)
	}
	if !bytes.Equal(received.Sum(nil), sent.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.Status() != 0 || exit.StdoutBytes != size {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestStdinClosedEarly has a process that does not read all of its input.
func TestStdinClosedEarly(t *testing.T) {
	h := newHarness(t)
	endless := io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<40)
	spec := defaultSpec("sh", "-c", "head -c 5 >/dev/null; exec <&-; sleep 0.1; echo done")
	r, err := h.run(spec, endless)
	if err != nil || r.stdout != "done\n" || r.exit.Status() != 0 {
		t.Errorf("stdout %q, exit %+v, %v", r.stdout, r.exit, err)
	}
}

// TestReaderGone closes stdout under a process that writes: it must get
// SIGPIPE.
func TestReaderGone(t *testing.T) {
	h := newHarness(t)
	s, err := client.NewStdio(client.StdioOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, defaultSpec("yes")), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.Stdout, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	exit, err := h.client.Wait(h.ctx, "c1", "")
	// As process 1 of its PID namespace it is not killed but told EPIPE.
	if err != nil || exit.Status() == 0 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestBackpressure leaves output unread: the process must stand still, and
// WaitUndrained must not.
func TestBackpressure(t *testing.T) {
	h := newHarness(t)
	s, err := client.NewStdio(client.StdioOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, defaultSpec("sh", "-c", "dd if=/dev/zero bs=1M count=64")), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.ctx, 300*time.Millisecond)
	defer cancel()
	if exit, err := h.client.WaitUndrained(ctx, "c1", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the process ended although nobody reads: %+v, %v", exit, err)
	}
	if err := h.client.Signal(h.ctx, "c1", "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := h.client.WaitUndrained(h.ctx, "c1", "")
	if err != nil || exit.Signal != unix.SIGKILL || exit.Status() != 137 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	n, err := io.Copy(io.Discard, s.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	exit, err = h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.StdoutBytes != uint64(n) {
		t.Errorf("%d bytes reported, %d came, %v", exit.StdoutBytes, n, err)
	}
}

// TestBackgroundWriter leaves a process behind that holds stdout: the exit of
// an additional process must not wait for it, and all it wrote itself comes.
func TestBackgroundWriter(t *testing.T) {
	h := newHarness(t)
	h.start(defaultSpec("sleep", "1000"))
	s, err := client.NewStdio(client.StdioOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	process := defaultSpec("sh", "-c", "sleep 1000 & seq 1 50000; exit 7").Process
	if _, err := h.client.Exec(h.ctx, client.ExecOptions{
		ContainerID: "c1", ExecID: "e1", Process: marshal(t, process), Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan client.Exit, 1)
	go func() {
		exit, err := h.client.Wait(h.ctx, "c1", "e1")
		if err != nil {
			t.Error(err)
		}
		done <- exit
	}()
	var out strings.Builder
	for !strings.HasSuffix(out.String(), "\n50000\n") {
		buf := make([]byte, 4096)
		n, err := s.Stdout.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(buf[:n])
	}
	exit := <-done
	if exit.Code != 7 || exit.StdoutBytes != uint64(out.Len()) {
		t.Errorf("exit %+v, %d bytes came", exit, out.Len())
	}
}

// TestTerminal runs a shell on a terminal: echo, size, job control, resize.
func TestTerminal(t *testing.T) {
	h := newHarness(t)
	// As process 1 the shell gets only the signals it has a trap for.
	spec := defaultSpec("sh", "-c", "trap 'exit 130' INT; tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console | cut -c1; read line; stty size; echo got $line; while :; do sleep 0.1; done")
	spec.Process.Terminal = true
	s, err := client.NewStdio(client.StdioOptions{Terminal: true, Width: 91, Height: 17})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, spec), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s.Terminal, got); err != nil || string(got) != want {
			t.Fatalf("terminal says %q, %v; want %q", got, err, want)
		}
	}
	expect("/dev/pts/0\r\n17 91\r\nall\r\nc\r\n")
	if err := h.client.Resize(h.ctx, "c1", "", 120, 40); err != nil {
		t.Fatal(err)
	}
	io.WriteString(s.Terminal, "hello\n")
	expect("hello\r\n40 120\r\ngot hello\r\n")
	io.WriteString(s.Terminal, "\x03")
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil || exit.Status() != 130 {
		t.Errorf("exit after Ctrl-C: %+v, %v", exit, err)
	}
	expect("^C")
	if n, err := s.Terminal.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d bytes, %v after the end", n, err)
	}
}

// TestTerminalPlainNewlines: what does not end at a terminal has no carriage
// returns.
func TestTerminalPlainNewlines(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("sh", "-c", "echo one; echo two")
	spec.Process.Terminal = true
	s, err := client.NewStdio(client.StdioOptions{Terminal: true, PlainNewlines: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(t, spec), RootfsTag: h.rootfs, Stdio: s,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s.Terminal)
	if err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("the terminal says %q, %v", got, err)
	}
}

// start creates and starts a container without streams.
func (h *harness) start(spec any) {
	h.t.Helper()
	if _, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(h.t, spec), RootfsTag: h.rootfs,
	}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		h.t.Fatal(err)
	}
}
