package guest

import (
	"context"
	"net"
	"testing"
)

// TestLinkClosed suspends and resumes a link whose process has closed its end.
func TestLinkClosed(t *testing.T) {
	for _, name := range []string{"before", "meanwhile"} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := net.Pipe()
			defer theirs.Close()
			l := newLink()
			l.set(ours)
			l.begin(&l.inputs)
			if name == "before" {
				l.Close()
			}
			if err := l.suspend(context.Background(), 0, func() {}); err != nil {
				t.Errorf("suspend: %v", err)
			}
			l.Close()
			if err := l.resume(nil); err != nil {
				t.Errorf("resume: %v", err)
			}
		})
	}
}

// lateConn is slow to return from a Read that has failed.
type lateConn struct {
	net.Conn
	reading chan struct{} // closed when in Read
	fail    chan struct{} // closed to let it fail
}

func (c *lateConn) Read(p []byte) (int, error) {
	select {
	case <-c.reading:
	default:
		close(c.reading)
	}
	n, err := c.Conn.Read(p)
	if err != nil {
		<-c.fail
	}
	return n, err
}

// TestLinkResumedAtOnce resumes before the reader has seen the suspension.
func TestLinkResumedAtOnce(t *testing.T) {
	theirs, ours := net.Pipe()
	defer theirs.Close()
	conn := &lateConn{ours, make(chan struct{}), make(chan struct{})}
	l := newLink()
	l.set(conn)
	l.begin(&l.inputs)
	read := make(chan error)
	go func() {
		_, err := l.Read(make([]byte, 1))
		read <- err
	}()
	<-conn.reading
	if err := l.suspend(context.Background(), 0, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := l.resume(nil); err != nil {
		t.Fatal(err)
	}
	close(conn.fail)
	go func() { _, _ = theirs.Write([]byte("x")) }()
	if err := <-read; err != nil {
		t.Errorf("the suspension ended the stream: %v", err)
	}
}
