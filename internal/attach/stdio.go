package attach

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

// stdio copies between this process's stdin, stdout and stderr and the streams
// of the process in the guest. Each output is one stream from the guest to one
// descriptor: nothing is merged, and a reader that does not read holds back the
// process in the guest, as a pipe would.
type stdio struct {
	*client.Stdio
	log     *slog.Logger
	outputs []*output
	input   *input
	before  client.Written // what was written on other streams
}

// output counts what has arrived.
type output struct {
	file *os.File
	mu   sync.Mutex
	// changed is closed and replaced when written or done changes.
	changed chan struct{}
	written uint64
	done    bool
}

// newStdio prepares the streams. A stream from or to /dev/null needs no copying:
// the guest has its own.
func newStdio(terminal bool, log *slog.Logger) (*stdio, error) {
	o := client.StdioOptions{Terminal: terminal}
	if terminal {
		o.Width, o.Height = windowSize()
		o.PlainNewlines = !isTerminal(os.Stdout)
	} else {
		o.Stdin, o.Stdout, o.Stderr = !isNull(os.Stdin), !isNull(os.Stdout), !isNull(os.Stderr)
	}
	s, err := client.NewStdio(o)
	if err != nil {
		return nil, err
	}
	return &stdio{Stdio: s, log: log, input: newInput()}, nil
}

// isTerminal tells whether f is a terminal: it has a size, be it 0. The VM process
// may not ask for more.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// isNull tells whether f is /dev/null.
func isNull(f *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// windowSize is the size of the first terminal on stdio, 0 if it has none.
func windowSize() (width, height uint16) {
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			return size.Col, size.Row
		}
	}
	return 0, 0
}

// start copies in the background; the streams are open.
func (s *stdio) start() {
	if s.Terminal != nil {
		go s.copyIn(s.Terminal)
		s.copyOut(s.Terminal, os.Stdout, s.before.Terminal)
		return
	}
	if s.Stdin != nil {
		go s.copyIn(s.Stdin)
	}
	if s.Stdout != nil {
		s.copyOut(s.Stdout, os.Stdout, s.before.Stdout)
	}
	if s.Stderr != nil {
		s.copyOut(s.Stderr, os.Stderr, s.before.Stderr)
	}
}

func (s *stdio) copyIn(stream net.Conn) {
	if err := (gated{s.input, stream}).copy(); err != nil {
		s.log.Debug("stdin", "err", err)
	}
}

// copyOut copies a stream of which before bytes were written elsewhere.
func (s *stdio) copyOut(stream net.Conn, file *os.File, before uint64) {
	o := &output{file: file, written: before, changed: make(chan struct{})}
	s.outputs = append(s.outputs, o)
	go func() {
		_, err := io.Copy(o, stream)
		if err != nil {
			s.log.Debug(file.Name(), "err", err)
			// The reader is gone, or the file cannot be written: the process
			// gets what it would get from a pipe without a reader.
			if half, ok := stream.(interface{ CloseRead() error }); ok && s.Terminal == nil {
				err = half.CloseRead()
			} else {
				err = stream.Close()
			}
			if err != nil {
				s.log.Debug(file.Name(), "err", err)
			}
		}
		o.set(0, true)
	}()
}

// Write writes to the file and counts.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.file.Write(p)
	o.set(n, false)
	return n, err
}

func (o *output) set(n int, done bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written += uint64(n)
	o.done = o.done || done
	close(o.changed)
	o.changed = make(chan struct{})
}

// drain waits until everything that the process had written when it ended has
// been delivered. A process left behind in the background may hold the streams
// open; that is not waited for.
func (s *stdio) drain(ctx context.Context, exit client.Exit) error {
	for _, o := range s.outputs {
		want := exit.StdoutBytes
		switch {
		case s.Terminal != nil:
			want = exit.TerminalBytes
		case o.file == os.Stderr:
			want = exit.StderrBytes
		}
		if err := o.wait(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) wait(ctx context.Context, want uint64) error {
	for {
		o.mu.Lock()
		complete, changed := o.done || o.written >= want, o.changed
		o.mu.Unlock()
		if complete {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(errors.New("output was not read"), context.Cause(ctx))
		}
	}
}
