package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAnnouncement receives a process as an engine does.
func TestAnnouncement(t *testing.T) {
	dir := t.TempDir()
	a := announcement{pidFile: filepath.Join(dir, "pid"), pidfdSocket: filepath.Join(dir, "socket")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.pidfdSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	announced := make(chan error, 1)
	go func() { announced <- a.make(os.Getpid()) }()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages with %q, %v", len(messages), name[:n], err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	defer unix.Close(fds[0])
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fds[0]))
	if want := fmt.Sprintf("\nPid:\t%d\n", os.Getpid()); err != nil || !bytes.Contains(info, []byte(want)) {
		t.Errorf("the descriptor is %q, %v; want a pidfd with %q", info, err, want)
	}
	if err := <-announced; err != nil {
		t.Error(err)
	}
	pid, err := os.ReadFile(a.pidFile)
	if err != nil || string(pid) != fmt.Sprint(os.Getpid()) {
		t.Errorf("the pid file has %q, %v", pid, err)
	}
	a.pidfdSocket = filepath.Join(dir, "none")
	if err := a.make(os.Getpid()); err == nil {
		t.Error("announced to a socket that does not exist")
	}
}
