package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// link is the stream of one file of a process's stdio. Between two messages it
// can be suspended, and go on with another connection: the copiers wait
// meanwhile, with what they hold.
type link struct {
	mu        sync.Mutex
	changed   sync.Cond
	conn      net.Conn // nil: not there yet
	suspended bool
	closed    bool

	received uint64 // bytes read from connections
	// Copiers: those that exist, and those that wait for the suspension's end.
	inputs, outputs int
	waiting, parked int
}

func newLink() *link {
	l := &link{}
	l.changed.L = &l.mu
	return l
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// set gives the link its first connection.
func (l *link) set(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	if l.closed {
		conn.Close()
	}
	l.changed.Broadcast()
}

// current is the connection to use, once the link is not suspended. The caller
// holds mu.
func (l *link) current(waiting *int) (net.Conn, error) {
	for l.suspended && !l.closed {
		*waiting++
		l.changed.Broadcast()
		l.changed.Wait()
		*waiting--
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	return l.conn, nil
}

// Read reads from the connection, and from the next one when the link was
// suspended meanwhile.
func (l *link) Read(p []byte) (int, error) {
	for {
		l.mu.Lock()
		conn, err := l.current(&l.waiting)
		l.mu.Unlock()
		if err != nil {
			return 0, err
		}
		n, err := conn.Read(p)
		l.mu.Lock()
		l.received += uint64(n)
		// The suspension that has interrupted a Read may be over by now.
		interrupted := l.suspended || l.conn != conn || errors.Is(err, os.ErrDeadlineExceeded)
		again := n == 0 && err != nil && !l.closed && interrupted
		l.changed.Broadcast()
		l.mu.Unlock()
		if !again {
			return n, err
		}
	}
}

// Write writes to the connection. It is suspended by park only.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	conn, closed := l.conn, l.closed
	l.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	return conn.Write(p)
}

// park waits for the end of a suspension, if there is one.
func (l *link) park() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.current(&l.parked)
}

func (l *link) closeWrite() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	closeWrite(conn)
}

func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	if l.conn == nil {
		return nil
	}
	return l.conn.Close()
}

// begin and end count a copier.
func (l *link) begin(copiers *int) {
	l.mu.Lock()
	*copiers++
	l.mu.Unlock()
}

func (l *link) end(copiers *int) {
	l.mu.Lock()
	*copiers--
	l.changed.Broadcast()
	l.mu.Unlock()
}

// suspend waits until received has reached input, and the copier of output
// waits: wake makes it look. The error says what did not come to an end.
func (l *link) suspend(ctx context.Context, input uint64, wake func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		l.changed.Broadcast()
		l.mu.Unlock()
	})
	defer stop()
	for l.inputs > 0 && l.received < input {
		if ctx.Err() != nil {
			return errors.New("the process does not read its input")
		}
		l.changed.Wait()
	}
	l.suspended = true
	if l.conn != nil && !l.closed && l.inputs > 0 {
		if err := l.conn.SetReadDeadline(past); err != nil {
			return err
		}
	}
	wake()
	for l.outputs > l.parked {
		if ctx.Err() != nil {
			return errors.New("nobody reads the process's output")
		}
		l.changed.Wait()
	}
	return nil
}

// resume ends a suspension, with another connection if conn is not nil.
func (l *link) resume(conn net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.suspended {
		if conn != nil {
			conn.Close()
		}
		return nil
	}
	var err error
	switch {
	case conn != nil && l.closed:
		conn.Close()
	case conn != nil:
		if l.conn != nil {
			l.conn.Close() // it may be gone already
		}
		l.conn, l.received = conn, 0
	case l.conn != nil && !l.closed:
		err = l.conn.SetReadDeadline(time.Time{})
	}
	l.suspended = false
	l.changed.Broadcast()
	if err != nil {
		return fmt.Errorf("resume a stream: %w", err)
	}
	return nil
}
