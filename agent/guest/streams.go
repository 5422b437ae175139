package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"runv.dev/runv/agent/protocol"
)

const (
	// streamTimeout is how long one side of a stream waits for the other:
	// the connection for the request with its token, or the reverse. It is as
	// long as a request may take: a host may be busy.
	streamTimeout = 2 * time.Minute
	// maxPending bounds the connections without a request.
	maxPending = 256
)

var errStreamLimit = errors.New("too many streams without a process")

// hub brings the connections to the stream port together with the processes
// that were given their tokens, whichever comes first.
type hub struct {
	mu      sync.Mutex
	waiting map[protocol.Token]*expectation // a process waits
	pending map[protocol.Token]net.Conn     // a connection waits
}

func newHub() *hub {
	return &hub{
		waiting: make(map[protocol.Token]*expectation),
		pending: make(map[protocol.Token]net.Conn),
	}
}

// serve takes the connections of a listener until it is closed.
func (h *hub) serve(l net.Listener, report func(error)) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := h.take(conn); err != nil {
				conn.Close()
				report(err)
			}
		}()
	}
}

// take reads the token of a connection and hands the connection over.
func (h *hub) take(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(streamTimeout)); err != nil {
		return err
	}
	token, err := protocol.ReadToken(conn)
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, ok := h.waiting[token]; ok {
		delete(h.waiting, token)
		e.give(conn)
		return nil
	}
	if _, twice := h.pending[token]; twice {
		return errors.New("a stream's token was used twice")
	}
	if len(h.pending) >= maxPending {
		return errStreamLimit
	}
	h.pending[token] = conn
	time.AfterFunc(streamTimeout, func() { h.drop(token, conn) })
	return nil
}

// drop closes a connection nobody asked for.
func (h *hub) drop(token protocol.Token, conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending[token] == conn {
		delete(h.pending, token)
		conn.Close()
	}
}

// expect announces a token. The caller calls wait on the result, once.
func (h *hub) expect(token protocol.Token) (*expectation, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, twice := h.waiting[token]; twice {
		return nil, errors.New("a stream's token was used twice")
	}
	e := &expectation{hub: h, token: token, conn: make(chan net.Conn, 1), came: make(chan struct{})}
	if conn, ok := h.pending[token]; ok {
		delete(h.pending, token)
		e.give(conn)
		return e, nil
	}
	h.waiting[token] = e
	return e, nil
}

type expectation struct {
	hub   *hub
	token protocol.Token
	conn  chan net.Conn
	came  chan struct{} // closed when the connection came
}

// give hands over the connection.
func (e *expectation) give(conn net.Conn) {
	e.conn <- conn
	close(e.came)
}

// wait returns the connection; the context's end, or too long a time, is an
// error.
func (e *expectation) wait(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	select {
	case conn := <-e.conn:
		return conn, nil
	case <-ctx.Done():
	}
	if conn := e.cancel(); conn != nil {
		return conn, nil
	}
	return nil, fmt.Errorf("no stream came: %w", ctx.Err())
}

// cancel gives the expectation up. It returns the connection if it came.
func (e *expectation) cancel() net.Conn {
	e.hub.mu.Lock()
	defer e.hub.mu.Unlock()
	if e.hub.waiting[e.token] == e {
		delete(e.hub.waiting, e.token)
	}
	select {
	case conn := <-e.conn:
		return conn
	default:
		return nil
	}
}
