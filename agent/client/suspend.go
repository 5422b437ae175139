package client

import (
	"context"

	"runv.dev/runv/agent/protocol"
)

// Written is what the first process of a container and its children have written
// to each stream, in bytes.
type Written struct{ Stdout, Stderr, Terminal uint64 }

// Suspend freezes a running container and brings its stdio to rest, so that the
// guest can be saved: everything that was written, as far as the result says, is
// on the streams, and input bytes of what was sent to it have arrived. It fails,
// and the container goes on, if somebody does not read, or if processes that
// exec has started are running.
func (c *Client) Suspend(ctx context.Context, id string, input uint64) (Written, error) {
	resp, err := call(ctx, c, "suspend", c.agent.Suspend, &protocol.SuspendRequest{ContainerId: id, InputBytes: input})
	if err != nil {
		return Written{}, err
	}
	return Written{resp.StdoutBytes, resp.StderrBytes, resp.TerminalBytes}, nil
}

// AttachOptions say how a suspended container goes on.
type AttachOptions struct {
	ID      string
	SavedID string // by which it was suspended; empty: the same
	Stdio   *Stdio // nil: the streams that it has
	Clone   *Clone
	Network *protocol.Network
}

// Attach has a suspended container go on. Exits count what was written before,
// too, which is the result.
func (c *Client) Attach(ctx context.Context, o AttachOptions) (Written, []string, error) {
	req := &protocol.AttachRequest{ContainerId: o.ID, SavedId: o.SavedID, Clone: o.Clone.message(), Network: o.Network}
	if o.Stdio != nil {
		req.Stdio = o.Stdio.message()
	}
	resp, err := call(ctx, c, "attach", c.agent.Attach, req)
	if err != nil {
		return Written{}, nil, err
	}
	return Written{resp.StdoutBytes, resp.StderrBytes, resp.TerminalBytes}, checkWarnings(resp.Warnings), nil
}

func (c *Clone) message() *protocol.Clone {
	if c == nil {
		return nil
	}
	m := &protocol.Clone{Entropy: c.Entropy}
	if !c.Time.IsZero() {
		m.TimeUnixNano = c.Time.UnixNano()
	}
	return m
}
