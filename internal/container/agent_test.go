package container

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAgentSocket(t *testing.T) {
	// Longer than a socket's path may be.
	store := NewStore(filepath.Join(t.TempDir(), strings.Repeat("long/", 30)))
	c, err := store.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.ListenAgent()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			switch line {
			case "CONNECT 1024\n":
				fmt.Fprint(conn, "OK 1024\nhello")
			case "CONNECT 1\n":
				fmt.Fprint(conn, "ERR not allowed\n")
			case "CONNECT 2\n":
				fmt.Fprint(conn, "OK 3\n")
			case "CONNECT 3\n":
				fmt.Fprint(conn, strings.Repeat("x", 1000))
			}
			conn.Close()
		}
	}()
	conn, err := store.DialAgent(context.Background(), "x", 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("after the handshake: %q, %v", got, err)
	}
	for port, want := range map[uint32]string{1: "not allowed", 2: "unexpected answer", 3: "no end", 4: "EOF"} {
		if _, err := store.DialAgent(context.Background(), "x", port); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("port %d: %v; want %q", port, err, want)
		}
	}
	l.Close()
	f.Close()
	if _, err := store.DialAgent(context.Background(), "x", 1024); err == nil || !strings.Contains(err.Error(), "VM process has ended") {
		t.Errorf("nobody listens: %v", err)
	}
}

// With this in its environment the test program's first thread ends, and the
// others go on.
const leaderless = "RUNV_TEST_LEADERLESS"

func init() {
	if os.Getenv(leaderless) != "" {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// TestKillLeaderless: a process whose first thread is gone, as when one waits in
// the kernel after SIGKILL, has not ended.
func TestKillLeaderless(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), leaderless+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); p.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first thread does not end")
		}
	}
	if ended, err := p.Wait(100 * time.Millisecond); err != nil || ended {
		t.Errorf("wait: %v, %v; want a process that goes on", ended, err)
	}
	if ended, err := p.Kill(10 * time.Second); err != nil || !ended {
		cmd.Process.Kill()
		t.Errorf("kill: %v, %v", ended, err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process ended with %v", err)
	}
}

func TestKill(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := p
	other.StartTime++
	if ended, err := other.Kill(time.Second); err != nil || !ended {
		t.Errorf("kill of a process that has ended: %v, %v", ended, err)
	}
	if !p.Alive() {
		t.Fatal("a process that only has the same pid was killed")
	}
	if ended, err := p.Kill(10 * time.Second); err != nil || !ended {
		t.Fatal(ended, err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process ended with %v", err)
	}
	if ended, err := p.Kill(time.Second); err != nil || !ended {
		t.Errorf("kill twice: %v, %v", ended, err)
	}
}
