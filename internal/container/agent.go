package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socketAddr is the address of agent.sock through an open directory: a socket's
// path may have 107 bytes only, and root directories are longer.
func socketAddr(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), agentName), Net: "unix"}
}

// ListenAgent makes the container's agent.sock and gives its descriptor.
func (c *Container) ListenAgent() (*os.File, error) {
	l, err := net.ListenUnix("unix", socketAddr(c.lock))
	if err != nil {
		return nil, fmt.Errorf("agent.sock: %w", err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	return f, errors.Join(err, l.Close())
}

// handshakeTimeout bounds the wait for the VM process's answer when the context
// has no deadline. The VM process itself gives up after 10 seconds.
const handshakeTimeout = 15 * time.Second

// DialAgent connects to a port of the guest through agent.sock.
func (s *Store) DialAgent(ctx context.Context, id string, port uint32) (net.Conn, error) {
	if err := s.trustRoot(); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(filepath.Join(s.root, id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	addr := socketAddr(dir)
	if err := trustAgent(dir, addr.Name); err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, addr.Net, addr.Name)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			err = errors.New("nobody listens on agent.sock: the VM process has ended")
		}
		return nil, err
	}
	if err := handshake(ctx, conn, port); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return conn, nil
}

// trustAgent checks the directory and the socket in it.
func trustAgent(dir *os.File, socket string) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if err := trust(dir.Name(), info, fs.ModeDir); err != nil {
		return err
	}
	info, err = os.Lstat(socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // which is what the caller finds out
	}
	if err != nil {
		return err
	}
	return trust(filepath.Join(dir.Name(), agentName), info, fs.ModeSocket)
}

// handshake asks for a port of the guest.
func handshake(ctx context.Context, conn net.Conn, port uint32) error {
	deadline := time.Now().Add(handshakeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return fmt.Errorf("agent.sock: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("agent.sock: %w", err)
	}
	if reason, failed := strings.CutPrefix(line, "ERR "); failed {
		return fmt.Errorf("the guest's port %d: %s", port, reason)
	}
	if line != fmt.Sprintf("OK %d", port) {
		return fmt.Errorf("agent.sock: unexpected answer %.40q", line)
	}
	return conn.SetDeadline(time.Time{})
}

// readLine reads up to a newline and not a byte more: what follows belongs to
// the connection.
func readLine(r io.Reader) (string, error) {
	const most = 256
	line := make([]byte, 0, most)
	for len(line) < most {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("the answer has no end")
}
