package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"runv.dev/runv/agent/client"
)

// input is what goes to the process. Who holds the turn is the only one who
// writes.
type input struct {
	turn chan struct{} // has room for one
	sent atomic.Uint64
}

func newInput() *input { return &input{turn: make(chan struct{}, 1)} }

// gated is the stream of the input, written to by turns.
type gated struct {
	*input
	stream net.Conn
}

func (g gated) Write(p []byte) (int, error) {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	n, err := g.stream.Write(p)
	g.sent.Add(uint64(n))
	return n, err
}

// copy copies stdin until its end, which it passes on.
func (g gated) copy() error {
	_, err := io.Copy(g, os.Stdin)
	// A stream that the process has closed is no error: nobody reads on.
	if err != nil {
		return err
	}
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	return client.CloseWrite(g.stream)
}

// Suspend brings the process to rest, so that the guest can be saved: what was
// sent to it is there, and what it has written has been delivered. After an error
// too, Resume is to be called.
func (p *Process) Suspend(ctx context.Context) error {
	in := p.stdio.input
	select {
	case in.turn <- struct{}{}:
	case <-ctx.Done():
		return errors.New("the process does not read its input")
	}
	p.suspended = true
	written, err := p.Client.Suspend(ctx, p.ID, in.sent.Load())
	if err != nil {
		return err
	}
	err = p.stdio.drain(ctx, client.Exit{
		StdoutBytes: written.Stdout, StderrBytes: written.Stderr, TerminalBytes: written.Terminal,
	})
	if err != nil {
		return fmt.Errorf("nobody reads the process's output: %w", err)
	}
	return nil
}

// Resume undoes Suspend.
func (p *Process) Resume(ctx context.Context) error {
	if !p.suspended {
		return nil
	}
	p.suspended = false
	_, _, err := p.Client.Attach(ctx, client.AttachOptions{ID: p.ID, Clone: &client.Clone{}})
	<-p.stdio.input.turn
	return err
}

// Written says what the process had written before it got these streams, which
// comes before Start.
func (p *Process) Written(w client.Written) { p.stdio.before = w }
