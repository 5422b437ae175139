// Package attach makes this process stand for a process in the guest: it carries
// its stdio and signals and has its exit status.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

// ErrInterrupted: a signal ended a wait.
var ErrInterrupted = errors.New("interrupted")

// Options say which process of which container.
type Options struct {
	Client *client.Client
	ID     string // the container's
	ExecID string // empty: the container's first process

	Terminal bool
	Log      *slog.Logger

	// Guest ends with the guest; its cause is why the guest is gone.
	Guest context.Context
	// OrKill has the agent kill the process should this one be gone before it.
	OrKill bool
}

// Process is a process in the guest with this process's stdin, stdout and
// stderr.
type Process struct {
	Options
	stdio     *stdio
	suspended bool
}

// New prepares the streams; the request that makes the process names them by
// Streams.
func New(o Options) (*Process, error) {
	stdio, err := newStdio(o.Terminal, o.Log)
	if err != nil {
		return nil, err
	}
	return &Process{Options: o, stdio: stdio}, nil
}

// Streams are the streams of the process, for the request that makes it.
func (p *Process) Streams() *client.Stdio { return p.stdio.Stdio }

// Start carries the stdio in the background; the streams are open.
func (p *Process) Start() { p.stdio.start() }

// maxSignals bounds the signals that wait for the agent.
const maxSignals = 64

// Wait waits for the end of the process, and relays signals to it meanwhile.
// The error is the cause of Guest's end if that comes first.
func (p *Process) Wait(signals <-chan os.Signal) (client.Exit, error) {
	type result struct {
		exit client.Exit
		err  error
	}
	exited := make(chan result, 1)
	go func() {
		wait := p.Client.WaitUndrained
		if p.OrKill {
			wait = p.Client.WaitOrKill
		}
		exit, err := wait(p.Guest, p.ID, p.ExecID)
		exited <- result{exit, err}
	}()
	// Beside the wait: an agent may take its time to answer, or not answer at all.
	relay := make(chan os.Signal, maxSignals)
	defer close(relay)
	go func() {
		for s := range relay {
			p.signal(s)
		}
	}()
	for {
		select {
		case s := <-signals:
			select {
			case relay <- s:
			default:
				p.Log.Warn("signal dropped: the agent does not answer earlier ones", "signal", s)
			}
		case <-p.Guest.Done():
			return client.Exit{}, context.Cause(p.Guest)
		case r := <-exited:
			return r.exit, r.err
		}
	}
}

// Drain delivers the rest of the output of a process that has ended. A signal
// that would have ended it ends the wait for a reader that does not read.
func (p *Process) Drain(signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(p.Guest)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		// Unlike WaitUndrained this tells how much output there is, as soon
		// as the guest has sent it.
		exit, err := p.Client.Wait(ctx, p.ID, p.ExecID)
		if err == nil {
			err = p.stdio.drain(ctx, exit)
		}
		done <- err
	}()
	for {
		select {
		case err := <-done:
			return err
		case <-p.Guest.Done():
			return fmt.Errorf("the guest died before all output was delivered: %w", context.Cause(p.Guest))
		case s := <-signals:
			if Ends(s) {
				cancel(fmt.Errorf("%w by signal %v", ErrInterrupted, s))
			}
		}
	}
}

// signal passes a signal on, or the size of the terminal.
func (p *Process) signal(s os.Signal) {
	sig, ok := s.(unix.Signal)
	if !ok {
		return
	}
	var err error
	if sig == unix.SIGWINCH && p.Terminal {
		if width, height := windowSize(); width != 0 && height != 0 {
			err = p.Client.Resize(p.Guest, p.ID, p.ExecID, width, height)
		}
	} else {
		err = p.Client.Signal(p.Guest, p.ID, p.ExecID, sig)
	}
	if err != nil {
		p.Log.Debug("signal", "signal", sig, "err", err)
	}
}
