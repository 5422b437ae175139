package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"

	"runv.dev/runv/agent/protocol"
)

// StdioOptions say which streams a process has. What is left out is /dev/null
// in the guest.
type StdioOptions struct {
	Stdin, Stdout, Stderr bool
	// One stream in both directions, instead of the three. It must be set
	// exactly when the OCI process has terminal set.
	Terminal bool
	// The first size of the terminal, 0: as the OCI process says.
	Width, Height uint16
	// PlainNewlines: the terminal adds no carriage returns, for its output does
	// not end at a terminal.
	PlainNewlines bool
}

// Stdio is the stdio of one process: tokens first, connections after Open.
type Stdio struct {
	opts                            StdioOptions
	stdin, stdout, stderr, terminal protocol.Token

	// Stdin, Stdout, Stderr and Terminal are the streams, nil where there is
	// none. Closing the write side (CloseWrite) is EOF for the process.
	Stdin, Stdout, Stderr, Terminal net.Conn
}

// NewStdio makes the tokens for a process's streams.
func NewStdio(o StdioOptions) (*Stdio, error) {
	if o.Terminal && (o.Stdin || o.Stdout || o.Stderr) {
		return nil, errors.New("a process with a terminal has no other stream")
	}
	s := &Stdio{opts: o}
	for _, t := range []struct {
		wanted bool
		token  *protocol.Token
	}{{o.Stdin, &s.stdin}, {o.Stdout, &s.stdout}, {o.Stderr, &s.stderr}, {o.Terminal, &s.terminal}} {
		if t.wanted {
			rand.Read(t.token[:]) // never fails
		}
	}
	return s, nil
}

func (s *Stdio) message() *protocol.Stdio {
	if s == nil {
		return &protocol.Stdio{}
	}
	m := &protocol.Stdio{
		Stdin:    tokenBytes(s.stdin),
		Stdout:   tokenBytes(s.stdout),
		Stderr:   tokenBytes(s.stderr),
		Terminal: tokenBytes(s.terminal),

		PlainNewlines: s.opts.PlainNewlines,
	}
	if s.opts.Width != 0 && s.opts.Height != 0 {
		m.Size = &protocol.Size{Width: uint32(s.opts.Width), Height: uint32(s.opts.Height)}
	}
	return m
}

func tokenBytes(t protocol.Token) []byte {
	if t == (protocol.Token{}) {
		return nil
	}
	return t[:]
}

// OpenStdio opens the streams, before or after the request that has their
// tokens. The agent keeps a stream for two minutes if that request does not
// come, and waits as long for a stream.
func (c *Client) OpenStdio(ctx context.Context, s *Stdio) error {
	if s == nil {
		return nil
	}
	streams := []struct {
		token protocol.Token
		conn  *net.Conn
	}{{s.stdin, &s.Stdin}, {s.stdout, &s.Stdout}, {s.stderr, &s.Stderr}, {s.terminal, &s.Terminal}}
	errs := make([]error, len(streams))
	var wg sync.WaitGroup
	for i, stream := range streams {
		if stream.token == (protocol.Token{}) {
			continue
		}
		wg.Go(func() { *stream.conn, errs[i] = c.openStream(ctx, stream.token) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

func (c *Client) openStream(ctx context.Context, t protocol.Token) (net.Conn, error) {
	conn, err := c.dial(ctx, protocol.StreamPort)
	if err != nil {
		return nil, fmt.Errorf("open stdio stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = conn.Write(t[:])
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open stdio stream: %w", err)
	}
	return conn, nil
}

// Close closes the streams that are open; it may be called again.
func (s *Stdio) Close() error {
	var errs []error
	for _, conn := range []net.Conn{s.Stdin, s.Stdout, s.Stderr, s.Terminal} {
		if conn == nil {
			continue
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// CloseWrite ends the sending direction of a stream: EOF for the process.
func CloseWrite(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("close write side of %T: %w", conn, errors.ErrUnsupported)
	}
	return half.CloseWrite()
}
