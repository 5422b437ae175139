package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
)

// suspendTimeout bounds how long a suspension waits for those who read what a
// process writes, and for the process to read what was written to it.
const suspendTimeout = 10 * time.Second

func (s *service) Suspend(ctx context.Context, req *protocol.SuspendRequest) (*protocol.SuspendResponse, error) {
	c, err := s.container(req.ContainerId)
	if err == nil {
		err = c.suspend(ctx, req.InputBytes)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	io := c.init.io
	return &protocol.SuspendResponse{
		StdoutBytes: io.copied(stdout), StderrBytes: io.copied(stderr), TerminalBytes: io.copied(terminal),
	}, nil
}

func (s *service) Attach(ctx context.Context, req *protocol.AttachRequest) (*protocol.AttachResponse, error) {
	resp, err := s.attach(ctx, req)
	return resp, statusOf(err)
}

// suspend freezes a running container, and leaves its stdio at rest. If it fails,
// the container goes on.
func (c *container) suspend(ctx context.Context, input uint64) (err error) {
	ctx, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	c.mu.Lock()
	started, others := c.child == nil, 0
	for _, p := range c.execs {
		if p == nil || !p.over() {
			others++
		}
	}
	c.mu.Unlock()
	switch {
	case !started || c.init.over():
		return failf(protocol.Failure_BAD_STATE, "container %s is not running", c.id)
	case others > 0:
		return failf(protocol.Failure_BAD_STATE, "%d processes that exec has started are running: their stdio is elsewhere", others)
	}
	if err := c.cgroup.freeze(ctx, true); err != nil {
		return errors.Join(err, c.cgroup.freeze(context.Background(), false))
	}
	if err := c.init.io.suspend(ctx, input); err != nil {
		return errors.Join(failf(protocol.Failure_BAD_STATE, "%v", err), c.resume(nil))
	}
	return nil
}

// over tells whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// resume has a suspended container go on. conns are new streams, nil for those
// there are.
func (c *container) resume(conns *[streamCount]net.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), suspendTimeout)
	defer cancel()
	return errors.Join(c.init.io.resume(conns), c.cgroup.freeze(ctx, false))
}

func (s *service) attach(ctx context.Context, req *protocol.AttachRequest) (*protocol.AttachResponse, error) {
	if req.SavedId != "" && req.SavedId != req.ContainerId {
		if err := s.rename(req.SavedId, req.ContainerId); err != nil {
			return nil, err
		}
	}
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := uniquify(req.Clone); err != nil {
		return nil, err
	}
	resp := &protocol.AttachResponse{}
	if req.Network != nil {
		if resp.Warnings, err = s.agent.setNetwork(req.Network); err != nil {
			return nil, err
		}
	}
	io := c.init.io
	resp.StdoutBytes, resp.StderrBytes, resp.TerminalBytes = io.copied(stdout), io.copied(stderr), io.copied(terminal)
	if req.Stdio == nil {
		return resp, c.resume(nil)
	}
	conns, err := s.agent.hub.streams(ctx, req.Stdio)
	if err != nil {
		return nil, err
	}
	return resp, c.resume(conns)
}

// rename gives a container another name.
func (s *service) rename(from, to string) error {
	if err := protocol.CheckID(to); err != nil {
		return initproc.Invalid("%v", err)
	}
	c, err := s.container(from)
	if err != nil {
		return err
	}
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, exists := a.containers[to]; exists {
		return failf(protocol.Failure_ALREADY_EXISTS, "container %s exists", to)
	}
	delete(a.containers, from)
	c.id = to
	a.containers[to] = c
	return nil
}

// streams waits for the streams that a request names.
func (h *hub) streams(ctx context.Context, m *protocol.Stdio) (_ *[streamCount]net.Conn, err error) {
	var expected [streamCount]*expectation
	var conns [streamCount]net.Conn
	defer func() {
		for i := range streamCount {
			if err == nil {
				continue
			}
			if conns[i] != nil {
				conns[i].Close()
			} else if e := expected[i]; e != nil {
				if conn := e.cancel(); conn != nil {
					conn.Close()
				}
			}
		}
	}()
	for i, b := range [streamCount][]byte{m.GetStdin(), m.GetStdout(), m.GetStderr(), m.GetTerminal()} {
		token, err := protocol.ParseToken(b)
		if err == nil && token != (protocol.Token{}) {
			expected[i], err = h.expect(token)
		}
		if err != nil {
			return nil, failf(protocol.Failure_INVALID, "%s: %v", streamNames[i], err)
		}
	}
	for i, e := range expected {
		if e == nil {
			continue
		}
		if conns[i], err = e.wait(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", streamNames[i], err)
		}
	}
	return &conns, nil
}

// suspend has all streams at rest: what the process has written is on them, and
// what was sent to it, input bytes in all, has arrived here.
func (s *stdio) suspend(ctx context.Context, input uint64) error {
	for i, l := range s.links {
		if l == nil {
			continue
		}
		received := uint64(0)
		if i == stdin || i == terminal {
			received = input
		}
		wake := func() {}
		if out := s.outputs[i]; out != nil {
			wake = out.wake
		}
		if err := l.suspend(ctx, received, wake); err != nil {
			return fmt.Errorf("%s: %w", streamNames[i], err)
		}
	}
	return nil
}

// resume undoes suspend. A stream that is not there any more, and was, ends.
func (s *stdio) resume(conns *[streamCount]net.Conn) error {
	var errs []error
	for i, l := range s.links {
		var conn net.Conn
		if conns != nil {
			conn = conns[i]
		}
		switch {
		case l == nil:
			if conn != nil {
				conn.Close() // the process has /dev/null there
			}
		case conns != nil && conn == nil:
			errs = append(errs, l.resume(newNull()))
		default:
			errs = append(errs, l.resume(conn))
		}
	}
	return errors.Join(errs...)
}

// newNull is a stream as /dev/null is a file.
func newNull() net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		var buf [4096]byte
		for {
			if _, err := theirs.Read(buf[:]); err != nil {
				return
			}
		}
	}()
	return nullConn{ours}
}

type nullConn struct{ net.Conn }

// Read is at the end of file.
func (nullConn) Read([]byte) (int, error) { return 0, net.ErrClosed }

// copied is the number of bytes of an output stream of a suspended process.
func (s *stdio) copied(stream int) uint64 { return s.written(stream) }
