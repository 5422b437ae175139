package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"runv.dev/runv/tests/host/wire"
)

var endSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// runOnce boots a host, runs one command and ends the host.
func runOnce(args []string) (int, error) {
	var o options
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	o.register(fs)
	if err := parse(fs, args); err != nil {
		return 0, err
	}
	if err := o.check(); err != nil {
		return 0, err
	}
	if fs.NArg() == 0 {
		return 0, failf(exitUsage, "no command\n%s", usage)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	cancelOnSignal(cancel)
	if o.limit > 0 {
		timer := time.AfterFunc(o.limit, func() {
			cancel(failf(exitTimeout, "%s did not end within %v", fs.Arg(0), o.limit))
		})
		defer timer.Stop()
	}
	h, err := startHost(ctx, &o)
	if err != nil {
		return 0, err
	}
	defer h.kill()
	c, err := newCommand(fs.Args(), h.kind)
	if err != nil {
		return 0, err
	}
	s := newSession(h.conn, ourStdio())
	stop := context.AfterFunc(ctx, func() { h.control.Close() })
	defer stop()
	status, err := s.run(c)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if errors.Is(err, errHostGone) {
		return 0, fmt.Errorf("%w%s", err, h.console)
	}
	return status, err
}

// cancelOnSignal makes the first signal the cause of the context's end. The
// second one, should that hang, has its ordinary effect.
func cancelOnSignal(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals...)
	go func() {
		sig := (<-signals).(syscall.Signal)
		signal.Reset(endSignals...)
		cancel(failf(signalStatus(sig), "ended by signal: %v", sig))
	}()
}

// execIn runs a command in a host that start left running.
func execIn(args []string) (int, error) {
	var limit time.Duration
	fs := flag.NewFlagSet("exec", flag.ContinueOnError)
	registerLimit(fs, &limit)
	if err := parse(fs, args); err != nil {
		return 0, err
	}
	rest := fs.Args()
	if len(rest) > 1 && rest[1] == "--" {
		rest = append(rest[:1:1], rest[2:]...)
	}
	if len(rest) < 2 {
		return 0, failf(exitUsage, "no name or no command\n%s", usage)
	}
	name, argv := rest[0], rest[1:]
	if err := checkName(name); err != nil {
		return 0, err
	}
	control, err := dialHost(name)
	if err != nil {
		return 0, err
	}
	defer control.Close()
	conn := wire.NewConn(control)
	f, err := conn.Read()
	if err != nil {
		return 0, fmt.Errorf("host %s: %w", name, err)
	}
	c, err := newCommand(argv, string(f.Payload)) // the host's kind
	if err != nil {
		return 0, err
	}
	s := newSession(conn, ourStdio())
	if limit > 0 {
		timer := time.AfterFunc(limit, func() {
			s.abort(failf(exitTimeout, "%s did not end within %v", argv[0], limit))
			control.Close() // the host kills what a vanished client leaves
		})
		defer timer.Stop()
	}
	s.forwardSignals(func() { control.Close() })
	status, err := s.run(c)
	if errors.Is(err, errHostGone) {
		err = fmt.Errorf("%w: see %s", err, hostDir(name).log())
	}
	return status, err
}

func dialHost(name string) (net.Conn, error) {
	c, err := net.Dial("unix", hostDir(name).socket())
	if err != nil {
		return nil, fmt.Errorf("no host named %s is running (%w)", name, err)
	}
	return c, nil
}

var errHostGone = errors.New("the host ended before the command did")

// session is one command from the client's side.
type session struct {
	conn           *wire.Conn
	stdio          stdio
	stdin          *wire.Sender
	stdout, stderr *wire.Receiver

	mu    sync.Mutex
	cause error // why the session was aborted
}

// stdio are the files the command's streams are connected to.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func ourStdio() stdio { return stdio{os.Stdin, os.Stdout, os.Stderr} }

const clientSession = 1

func newSession(conn *wire.Conn, files stdio) *session {
	return &session{
		conn:   conn,
		stdio:  files,
		stdin:  wire.NewSender(conn, clientSession, wire.Stdin),
		stdout: wire.NewReceiver(conn, clientSession, wire.Stdout),
		stderr: wire.NewReceiver(conn, clientSession, wire.Stderr),
	}
}

// run sends the command, connects its standard streams, and returns its status when all its output has been written.
func (s *session) run(c wire.Command) (int, error) {
	if err := s.send(c); err != nil {
		return 0, s.explain(err)
	}
	go func() {
		buf := make([]byte, 128<<10)
		// Any end of our input, also one that is an error, is the command's EOF.
		_, _ = io.CopyBuffer(s.stdin, struct{ io.Reader }{s.stdio.in}, buf)
		_ = s.stdin.Close()
	}()
	var outputs sync.WaitGroup
	var outErr, errErr error
	outputs.Go(func() { outErr = s.stdout.CopyTo(s.stdio.out) })
	outputs.Go(func() { errErr = s.stderr.CopyTo(s.stdio.err) })
	status, err := s.receive()
	s.stdin.Abort()
	s.stdout.End()
	s.stderr.End()
	outputs.Wait()
	if err != nil {
		return status, s.explain(err)
	}
	// Credit for the last bytes may find the connection closed: no loss.
	for _, err := range []error{outErr, errErr} {
		var lost *os.PathError
		if errors.As(err, &lost) {
			return 0, fmt.Errorf("output lost: %w", lost)
		}
	}
	return status, nil
}

func (s *session) send(c wire.Command) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(text) > wire.MaxCommand {
		return fmt.Errorf("command and environment of %d bytes are too long", len(text))
	}
	for {
		part := text[:min(len(text), wire.MaxPayload)]
		text = text[len(part):]
		if err := s.conn.Write(wire.Frame{Session: clientSession, Kind: wire.Start, Payload: part}); err != nil {
			return err
		}
		if len(part) == 0 {
			return nil
		}
	}
}

// receive handles frames until the command's exit.
func (s *session) receive() (int, error) {
	for {
		f, err := s.conn.Read()
		if err != nil {
			return 0, errHostGone
		}
		switch f.Kind {
		case wire.Data, wire.EOF:
			r := s.stdout
			if f.Stream == wire.Stderr {
				r = s.stderr
			}
			if f.Kind == wire.EOF {
				r.End()
			} else if err := r.Put(f.Payload); err != nil {
				return 0, err
			}
		case wire.Credit:
			n, _, err := wire.ParseUint32(f.Payload)
			if err != nil {
				return 0, err
			}
			s.stdin.Grant(n)
		case wire.Exit:
			status, text, err := wire.ParseUint32(f.Payload)
			if err == nil && len(text) > 0 {
				err = failf(int(status), "%s", text)
			}
			return int(status), err
		default:
			return 0, fmt.Errorf("unexpected frame of kind %d", f.Kind)
		}
	}
}

// forwardSignals passes signals on to the command; when one comes a second
// time the command is given up.
func (s *session) forwardSignals(giveUp func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, endSignals...)
	go func() {
		seen := make(map[os.Signal]bool)
		for sig := range signals {
			n := sig.(syscall.Signal)
			if seen[sig] {
				s.abort(failf(signalStatus(n), "ended by signal: %v", n))
				giveUp()
				return
			}
			seen[sig] = true
			f := wire.Frame{Session: clientSession, Kind: wire.Signal, Payload: wire.Uint32(uint32(n))}
			if s.conn.Write(f) != nil {
				return
			}
		}
	}()
}

func (s *session) abort(cause error) {
	s.mu.Lock()
	s.cause = cause
	s.mu.Unlock()
	_ = s.conn.Write(wire.Frame{Session: clientSession, Kind: wire.Abort})
}

// explain prefers the reason for an abort to the failure it led to.
func (s *session) explain(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return err
}
