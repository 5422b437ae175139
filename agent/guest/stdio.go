package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// The streams of a process.
const (
	stdin = iota
	stdout
	stderr
	terminal
	streamCount
)

var streamNames = [streamCount]string{"stdin", "stdout", "stderr", "terminal"}

// stdio is the standard input and output of one process: the agent's ends of
// its pipes, or its terminal, each with the stream it is copied from or to.
type stdio struct {
	log *slog.Logger

	expected [streamCount]*expectation
	ends     [streamCount]*os.File // the agent's; nil: the process has /dev/null
	child    []*os.File            // the process's three, until it has them
	outputs  [streamCount]*output
	links    [streamCount]*link // nil: nothing is copied

	cancel context.CancelFunc // ends the copying of input
	ctx    context.Context
}

// newStdio checks the tokens of a request and makes the pipes.
func (a *Agent) newStdio(m *protocol.Stdio, p *specs.Process) (s *stdio, err error) {
	var tokens [streamCount]protocol.Token
	for i, b := range [streamCount][]byte{m.GetStdin(), m.GetStdout(), m.GetStderr(), m.GetTerminal()} {
		tokens[i], err = protocol.ParseToken(b)
		if err != nil {
			return nil, failf(protocol.Failure_INVALID, "%s: %v", streamNames[i], err)
		}
	}
	none := protocol.Token{}
	if tokens[terminal] != none && (tokens[stdin] != none || tokens[stdout] != none || tokens[stderr] != none) {
		return nil, failf(protocol.Failure_INVALID, "a terminal excludes other streams")
	}
	if p.Terminal && (tokens[stdin] != none || tokens[stdout] != none || tokens[stderr] != none) ||
		!p.Terminal && tokens[terminal] != none {
		return nil, failf(protocol.Failure_INVALID, "process.terminal is %t, the streams say otherwise", p.Terminal)
	}
	s = &stdio{log: a.log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.discard()
		}
	}()
	for i, token := range tokens {
		if token == none {
			continue
		}
		if s.expected[i], err = a.hub.expect(token); err != nil {
			return nil, failf(protocol.Failure_INVALID, "%s: %v", streamNames[i], err)
		}
	}
	if p.Terminal {
		return s, nil
	}
	for i := range 3 {
		theirs, err := s.pipe(i)
		if err != nil {
			return nil, err
		}
		s.child = append(s.child, theirs)
	}
	return s, nil
}

// pipe makes the pipe of one stream, or opens /dev/null if it has none, and
// returns the process's end.
func (s *stdio) pipe(stream int) (*os.File, error) {
	if s.expected[stream] == nil {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// More than the default makes fewer, larger copies. It may be refused.
	unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pipeSize)
	ours, theirs := p[0], p[1]
	if stream == stdin {
		ours, theirs = theirs, ours
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		closeAll(p[:])
		return nil, os.NewSyscallError("set nonblocking", err)
	}
	s.ends[stream] = os.NewFile(uintptr(ours), streamNames[stream])
	return os.NewFile(uintptr(theirs), streamNames[stream]), nil
}

// childFDs are the descriptors to send to the process.
func (s *stdio) childFDs() []int {
	var fds []int
	for _, f := range s.child {
		fds = append(fds, int(f.Fd()))
	}
	return fds
}

// closeChild closes the process's ends in the agent: the end of file on a pipe
// depends on it.
func (s *stdio) closeChild() {
	for _, f := range s.child {
		f.Close()
	}
	s.child = nil
}

// discard releases everything of a process that did not come to be.
func (s *stdio) discard() {
	s.cancel()
	s.closeChild()
	for i := range streamCount {
		if e := s.expected[i]; e != nil {
			if conn := e.cancel(); conn != nil {
				conn.Close()
			}
		}
		if s.ends[i] != nil {
			s.ends[i].Close()
		}
	}
}

// run starts copying. master is the terminal, nil without one.
func (s *stdio) run(master *os.File) {
	s.closeChild()
	s.ends[terminal] = master
	for i := range streamCount {
		file := s.ends[i]
		if file == nil {
			continue
		}
		if i != stdin {
			s.outputs[i] = newOutput(file)
		}
		if s.expected[i] != nil {
			s.links[i] = newLink()
		}
		go s.serve(i, file)
	}
}

// await returns when all streams of the process have come. A process without one
// would lose what it writes.
func (s *stdio) await(ctx context.Context) error {
	for i, e := range s.expected {
		if e == nil {
			continue
		}
		select {
		case <-e.came:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(streamTimeout):
			return fmt.Errorf("the stream for %s did not come within %v", streamNames[i], streamTimeout)
		}
	}
	return nil
}

// serve copies one stream from its beginning to its end.
func (s *stdio) serve(stream int, file *os.File) {
	out := s.outputs[stream]
	if s.expected[stream] == nil {
		// A terminal nobody looks at: its output goes nowhere.
		if err := out.copy(discard{}, func() {}); err != nil {
			s.log.Warn("discard output", "error", err)
		}
		return
	}
	l := s.links[stream]
	if out != nil {
		l.begin(&l.outputs)
		defer l.end(&l.outputs)
	}
	if stream == stdin || stream == terminal {
		l.begin(&l.inputs)
	}
	ctx := s.ctx
	if out != nil {
		// Output is waited for even after the process has ended.
		ctx = context.Background()
	}
	conn, err := s.expected[stream].wait(ctx)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			s.log.Warn("stdio stream is missing", "stream", streamNames[stream], "error", err)
		}
		if out != nil {
			out.markDrained()
		}
		if stream == stdin || stream == terminal {
			l.end(&l.inputs)
		}
		l.Close()
		file.Close()
		return
	}
	l.set(conn)
	switch stream {
	case stdin:
		stop := context.AfterFunc(s.ctx, func() { l.Close() })
		copyInput(file, l)
		l.end(&l.inputs)
		stop()
		file.Close()
		l.Close()
	case terminal:
		go func() {
			copyInput(file, l)
			l.end(&l.inputs)
		}()
		s.copyOutput(stream, out, l)
		// Everybody who could read the terminal is gone.
		l.Close()
	default:
		s.copyOutput(stream, out, l)
		l.Close()
	}
}

func (s *stdio) copyOutput(stream int, out *output, l *link) {
	if err := out.copy(l, l.park); err != nil {
		s.log.Info("output stream ended early", "stream", streamNames[stream], "error", err)
		return
	}
	l.closeWrite()
}

// finish is called when the process has ended: its input ends, and drained is
// closed when its output, as far as it exists, is on the streams.
func (s *stdio) finish() (drained <-chan struct{}) {
	s.cancel()
	all := make(chan struct{})
	for _, out := range s.outputs {
		if out != nil {
			out.finish()
		}
	}
	go func() {
		for _, out := range s.outputs {
			if out != nil {
				<-out.drained
			}
		}
		close(all)
	}()
	return all
}

// written is the number of bytes of an output stream, once it is drained.
func (s *stdio) written(stream int) uint64 {
	if out := s.outputs[stream]; out != nil {
		return out.written
	}
	return 0
}

// resize sets the size of the terminal.
func (s *stdio) resize(width, height uint16) error {
	master := s.ends[terminal]
	if master == nil {
		return failf(protocol.Failure_BAD_STATE, "the process has no terminal")
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		size := unix.Winsize{Col: width, Row: height}
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &size)
	})
	if errors.Is(err, os.ErrClosed) {
		return failf(protocol.Failure_BAD_STATE, "the process's terminal is closed")
	}
	return errors.Join(err, os.NewSyscallError("resize", ioctlErr))
}

// discard is an io.Writer that keeps nothing.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
