package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"runv.dev/runv/tests/host/wire"
)

// The test binary stands in for the program when a host re-executes it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "native-init" || os.Args[1] == "agent") {
		main()
	}
	os.Exit(m.Run())
}

// testHost is an agent in this process behind a relay, as a host that stays
// has it.
func testHost(t *testing.T) (socket string) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{kind: "test", conn: wire.NewConn(ours), control: ours, exited: make(chan struct{})}
	go func() {
		defer close(h.exited)
		defer theirs.Close()
		if err := serveAgent(theirs); err != nil {
			t.Error(err)
		}
	}()
	if f, err := h.conn.Read(); err != nil || f.Kind != wire.Hello {
		t.Fatalf("first frame %+v, error %v; want Hello", f, err)
	}
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(h)
	go r.accept(l)
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		r.fromHost()
	}()
	t.Cleanup(func() {
		l.Close()
		if err := h.conn.Write(wire.Frame{Kind: wire.Shutdown}); err != nil {
			t.Error(err)
		}
		<-h.exited
		<-relayed
		ours.Close()
	})
	return socket
}

func connect(t *testing.T, socket string, files stdio) (*session, net.Conn) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	conn := wire.NewConn(c)
	if f, err := conn.Read(); err != nil || f.Kind != wire.Hello || string(f.Payload) != "test" {
		t.Fatalf("greeting %+v, error %v", f, err)
	}
	return newSession(conn, files), c
}

func command(args ...string) wire.Command {
	return wire.Command{Args: args, Env: []string{"PATH=" + os.Getenv("PATH"), "X=1"}, Dir: "/"}
}

func TestCommands(t *testing.T) {
	socket := testHost(t)
	for _, tc := range []struct {
		name             string
		args             []string
		in, out, errText string
		status           int
		fails            string // substring of the error, if one is wanted
	}{
		{name: "status 0", args: []string{"true"}},
		{name: "status 42", args: []string{"sh", "-c", "exit 42"}, status: 42},
		{name: "killed", args: []string{"sh", "-c", "kill -9 $$"}, status: 137},
		{name: "streams apart", args: []string{"sh", "-c", "echo a; echo b >&2"}, out: "a\n", errText: "b\n"},
		{name: "input and its end", args: []string{"cat"}, in: "one\r\n\x00two", out: "one\r\n\x00two"},
		{name: "quoting", args: []string{"printf", "[%s]", "a b", `c"d'`, "", "$X"}, out: `[a b][c"d'][][$X]`},
		{name: "environment and directory", args: []string{"sh", "-c", "echo $X; pwd"}, out: "1\n/\n"},
		{name: "unknown command", args: []string{"no-such-command"}, status: 127, fails: "not found"},
		{name: "missing file", args: []string{"/no/such/file"}, status: 127, fails: "no such file"},
		{name: "not executable", args: []string{"/etc/passwd"}, status: 126, fails: "permission denied"},
		{name: "output kept open", args: []string{"sh", "-c", "sleep 1000 & echo hi; echo $!"}, out: "hi\n"},
		{name: "input not read", args: []string{"true"}, in: strings.Repeat("x", 3*wire.Window)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			s, _ := connect(t, socket, stdio{strings.NewReader(tc.in), &out, &errOut})
			status, err := s.run(command(tc.args...))
			if status != tc.status || (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("status %d, error %v; want %d, %q", status, err, tc.status, tc.fails)
			}
			got := out.String()
			if tc.name == "output kept open" { // the last line is the process to end
				var pid string
				got, pid, _ = strings.Cut(strings.TrimSuffix(got, "\n"), "\n")
				got += "\n"
				killPID(t, pid)
			}
			if got != tc.out || errOut.String() != tc.errText {
				t.Errorf("stdout %q, stderr %q; want %q, %q", got, errOut.String(), tc.out, tc.errText)
			}
		})
	}
}

// Several clients at once, each with more than any buffer holds; one of them
// reads nothing until the others are done.
func TestParallelStreams(t *testing.T) {
	socket := testHost(t)
	data := make([]byte, 4*wire.Window)
	rand.NewChaCha8([32]byte{1}).Read(data)

	stalled, release := io.Pipe()
	slow, _ := connect(t, socket, stdio{bytes.NewReader(data), release, io.Discard})
	slowDone := make(chan error, 1)
	go func() {
		_, err := slow.run(command("cat"))
		release.Close()
		slowDone <- err
	}()

	done := make(chan struct{})
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			var out bytes.Buffer
			s, _ := connect(t, socket, stdio{bytes.NewReader(data), &out, io.Discard})
			if status, err := s.run(command("cat")); status != 0 || err != nil || !bytes.Equal(out.Bytes(), data) {
				t.Errorf("status %d, error %v, %d bytes of %d", status, err, out.Len(), len(data))
			}
		}()
	}
	for range 3 {
		<-done
	}
	got, err := io.ReadAll(stalled)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("slow reader: %d bytes of %d, error %v", len(got), len(data), err)
	}
	if err := <-slowDone; err != nil {
		t.Error(err)
	}
}

// A client that goes takes its command and the command's children along.
func TestVanishedClient(t *testing.T) {
	socket := testHost(t)
	pids, out := io.Pipe()
	s, conn := connect(t, socket, stdio{strings.NewReader(""), out, io.Discard})
	go s.run(command("sh", "-c", "sleep 1000 & echo $!; wait"))
	line := make([]byte, 32)
	n, err := pids.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	awaitGone(t, strings.TrimSpace(string(line[:n])))
}

func TestForwardedSignal(t *testing.T) {
	socket := testHost(t)
	ready, out := io.Pipe()
	s, _ := connect(t, socket, stdio{strings.NewReader(""), out, io.Discard})
	status := make(chan int)
	go func() {
		n, err := s.run(command("sh", "-c", `trap "exit 3" TERM; echo up; while :; do sleep 0.05; done`))
		if err != nil {
			t.Error(err)
		}
		status <- n
	}()
	if _, err := ready.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	f := wire.Frame{Session: clientSession, Kind: wire.Signal, Payload: wire.Uint32(15)}
	if err := s.conn.Write(f); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != 3 {
		t.Errorf("status %d, want the trap's 3", got)
	}
}

func killPID(t *testing.T, pid string) {
	t.Helper()
	var n int
	for _, c := range pid {
		n = n*10 + int(c-'0')
	}
	p, err := os.FindProcess(n)
	if err != nil || n <= 1 {
		t.Fatalf("process %q: %v", pid, err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

// awaitGone waits until no process, or only a dead one, has the id.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	for range 1000 {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %s still runs", pid)
}
