package attach

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"runv.dev/runv/agent/client"
)

// stream makes an output whose source the test holds.
func stream(t *testing.T) (s *stdio, guest net.Conn, host *os.File) {
	t.Helper()
	guest, conn := net.Pipe()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s = &stdio{Stdio: &client.Stdio{}, log: slog.New(slog.DiscardHandler)}
	s.copyOut(conn, w, 0)
	t.Cleanup(func() { guest.Close(); r.Close(); w.Close() })
	return s, guest, r
}

func TestDrain(t *testing.T) {
	s, guest, host := stream(t)
	if _, err := io.WriteString(guest, "hello"); err != nil {
		t.Fatal(err)
	}
	// The stream stays open: a process in the background has it.
	if err := s.drain(context.Background(), client.Exit{StdoutBytes: 5}); err != nil {
		t.Errorf("drain: %v", err)
	}
	buf := make([]byte, 10)
	if n, err := host.Read(buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("delivered %q, %v", buf[:n], err)
	}

	// What was promised does not come: only a signal or the end of the stream
	// ends the wait.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := s.drain(ctx, client.Exit{StdoutBytes: 6}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain of a byte too much: %v", err)
	}
	guest.Close()
	if err := s.drain(context.Background(), client.Exit{StdoutBytes: 6}); err != nil {
		t.Errorf("drain at the end of the stream: %v", err)
	}
}

func TestReaderGone(t *testing.T) {
	s, guest, host := stream(t)
	host.Close()
	// The guest notices, rather than writing into nothing for ever.
	for range 1000 {
		if _, err := io.WriteString(guest, "x"); err != nil {
			if err := s.drain(context.Background(), client.Exit{StdoutBytes: 1 << 40}); err != nil {
				t.Errorf("drain: %v", err)
			}
			return
		}
	}
	t.Error("the guest can write although nobody reads")
}
