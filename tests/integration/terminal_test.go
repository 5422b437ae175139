//go:build integration

package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func sleepShortly() { time.Sleep(50 * time.Millisecond) }

func withTerminal(s *specs.Spec) { s.Process.Terminal = true }

// openPTY makes a pseudo-terminal.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

func setSize(t *testing.T, f *os.File, rows, cols uint16) {
	t.Helper()
	must(t, unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
}

// dialogue is what the container does on its terminal.
var dialogue = []string{"sh", "-c", `tty; stty size; echo type; read line; echo "read <$line>"; trap 'stty size' WINCH; echo resize; while :; do sleep 1; done`}

func TestForegroundTerminal(t *testing.T) {
	noLeaks(t)
	converse(t, "run", "-b", bundle(t, dialogue, withTerminal, withoutPIDNamespace), newID())
}

func TestExecTerminal(t *testing.T) {
	noLeaks(t)
	id, container := sleeping(t)
	converse(t, append([]string{"exec", "--tty", id}, dialogue...)...)
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	container.end(t)
}

// converse runs the dialogue on the caller's terminal, which is raw meanwhile and
// as before afterwards; size and keys reach the guest.
func converse(t *testing.T, args ...string) {
	t.Helper()
	master, slave := openPTY(t)
	setSize(t, master, 33, 101)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	cmd := command(t.Context(), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	out := newLineReader(master)
	out.wait(t, "/dev/pts/")
	out.wait(t, "33 101")
	out.wait(t, "type")
	raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("the terminal is not raw: %#x", raw.Lflag)
	}
	_, err = master.WriteString("typed\r")
	must(t, err)
	out.wait(t, "read <typed>")
	out.wait(t, "resize")
	setSize(t, master, 44, 122) // the kernel sends SIGWINCH to runv
	out.wait(t, "44 122")
	_, err = master.WriteString("\x03") // Ctrl-C, for the guest's line discipline
	must(t, err)
	cmd.Wait()
	if status := statusOf(cmd); status != 128+2 {
		t.Errorf("status %d after Ctrl-C; want 130", status)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	if *after != *before {
		t.Errorf("the terminal's settings are %+v; want %+v", after, before)
	}
}

// TestTerminalWithRedirectedStdin runs with a terminal on stdout alone: the
// process has one nevertheless, of that size.
func TestTerminalWithRedirectedStdin(t *testing.T) {
	noLeaks(t)
	master, slave := openPTY(t)
	setSize(t, master, 33, 101)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	cmd := command(t.Context(), "run", "-b", bundle(t, []string{"sh", "-c", "tty; stty size; read line; echo read $line"}, withTerminal), newID())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("piped\n"), slave, slave
	must(t, cmd.Start())
	out := newLineReader(master)
	out.wait(t, "/dev/pts/")
	out.wait(t, "33 101")
	out.wait(t, "read piped")
	cmd.Wait()
	if status := statusOf(cmd); status != 0 {
		t.Errorf("status %d; want 0", status)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	if *after != *before {
		t.Errorf("the terminal's settings are %+v; want %+v", after, before)
	}
}

// TestTerminalWithRedirectedStdout: what does not go to a terminal has no carriage
// returns, as with other runtimes.
func TestTerminalWithRedirectedStdout(t *testing.T) {
	noLeaks(t)
	_, slave := openPTY(t)
	id := newID()
	const script = "echo one; echo two; test -t 1 && echo three"
	const want = "one\ntwo\nthree\n"
	cmd := command(t.Context(), "run", "-b", bundle(t, []string{"sh", "-c", script + "; exec sleep 1000"}, withTerminal), id)
	cmd.Stdin, cmd.Stderr = slave, slave
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	got := make([]byte, len(want))
	if _, err := io.ReadFull(pipe, got); err != nil || string(got) != want {
		t.Errorf("run: %q, %v; want %q", got, err, want)
	}
	exec := command(t.Context(), "exec", "-t", id, "sh", "-c", script)
	exec.Stdin, exec.Stderr = slave, slave
	if out, err := exec.Output(); err != nil || string(out) != want {
		t.Errorf("exec: %q, %v; want %q", out, err, want)
	}
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	cmd.Wait()
}

// consoleSocket listens for a terminal the way an engine does.
func consoleSocket(t *testing.T) (path string, masters <-chan *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "console.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	ch := make(chan *os.File, 1)
	go func() {
		defer close(ch)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		name, oob := make([]byte, 100), make([]byte, 100)
		n, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
		if err != nil {
			t.Error(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			t.Errorf("%d messages, %v", len(messages), err)
			return
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 || !strings.HasPrefix(string(name[:n]), "/dev/pts/") {
			t.Errorf("%d descriptors named %q, %v", len(fds), name[:n], err)
		}
		ch <- os.NewFile(uintptr(fds[0]), "master")
	}()
	return path, ch
}

// TestConsoleSocket: an engine holds the terminal.
func TestConsoleSocket(t *testing.T) {
	noLeaks(t)
	path, masters := consoleSocket(t)
	id := newID()
	dir := bundle(t, dialogue, withTerminal, withoutPIDNamespace, func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 20, Width: 70} })
	runv(t, nil, "create", "-b", dir, "--console-socket", path, id).expect(t, "", "", 0)
	t.Cleanup(func() { runv(t, nil, "delete", "--force", id) })
	master, ok := <-masters
	if !ok {
		t.Fatal("no terminal came")
	}
	defer master.Close()
	runv(t, nil, "start", id).expect(t, "", "", 0)
	out := newLineReader(master)
	out.wait(t, "20 70")
	out.wait(t, "type")
	_, err := master.WriteString("x\ty\r")
	must(t, err)
	out.wait(t, "read <x\ty>")
	out.wait(t, "resize")
	setSize(t, master, 55, 133)
	out.wait(t, "55 133")
	_, err = master.WriteString("\x03")
	must(t, err)
	waitStatus(t, id, specs.StateStopped)
}
