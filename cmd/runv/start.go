package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/container"
)

func startCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "start the process of a created container",
		ArgsUsage: "ID",
		Description: "Returns when the container's program has been executed in the guest.\n\n" +
			"Example:\n" +
			"   runv start web1",
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			return g.start(id)
		},
	}
}

// agentTimeout bounds a request to the agent of a running guest.
const agentTimeout = 30 * time.Second

// agent connects to the agent of a container.
func (g *globals) agent(ctx context.Context, id string) (*client.Client, error) {
	return client.New(ctx, func(ctx context.Context, port uint32) (net.Conn, error) {
		return g.store().DialAgent(ctx, id, port)
	})
}

// settleTime is how long a container may take from its process's first output to
// the state that says so.
const settleTime = 2 * time.Second

// peek reads a container's state without locking it. Who has heard of a container
// that is being run may come before its state says that it runs; peek waits for
// that. Of one that is being created it says so after settleTime.
func (g *globals) peek(id string) (*container.State, error) {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(10 * time.Millisecond) {
		s, err := g.store().Peek(id)
		if err != nil || s.Status != specs.StateCreating || !s.Creator.Alive() || !s.Process.Alive() || time.Now().After(deadline) {
			return s, err
		}
	}
}

// checkActive returns an error unless the container has a process to ask for.
func checkActive(s *container.State) error {
	switch status := s.Now(); status {
	case specs.StateCreated, specs.StateRunning:
		return nil
	case container.StatePaused:
		return errPaused
	default:
		return fmt.Errorf("%w: it is %s", errNotRunning, status)
	}
}

var (
	errNotRunning = errors.New("container not running")
	errPaused     = errors.New("container is paused: resume it first")
)

// ask connects to the agent of an active container for one request. Should the
// container end meanwhile, the error is errNotRunning; should it be paused, so
// that nobody answers, errPaused.
func (g *globals) ask(id string, s *container.State, request func(context.Context, *client.Client) error) error {
	return g.askContext(context.Background(), id, s, request)
}

func (g *globals) askContext(ctx context.Context, id string, s *container.State, request func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	defer cancelWhenPaused(ctx, cancel, s)()
	agent, err := g.agent(ctx, id)
	if err == nil {
		defer agent.Close()
		err = request(ctx, agent)
	}
	if err != nil && (!s.Process.Alive() || errors.Is(err, client.ErrBadState)) {
		return errNotRunning
	}
	var answer *client.Error
	if err != nil && !errors.As(err, &answer) && s.Now() == container.StatePaused {
		return errPaused
	}
	return err
}

// cancelWhenPaused ends a request when the container is found paused, until stop
// is called.
func cancelWhenPaused(ctx context.Context, cancel context.CancelFunc, s *container.State) (stop func()) {
	// No request takes that long, so the state is hardly ever looked at.
	const patience = 500 * time.Millisecond
	done := make(chan struct{})
	go func() {
		look := time.NewTicker(patience)
		defer look.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-look.C:
			}
			if s.Now() == container.StatePaused {
				cancel()
			}
		}
	}()
	return func() { close(done) }
}

func (g *globals) start(id string) error {
	c, err := g.open(id)
	if err != nil {
		return err
	}
	defer c.Unlock()
	switch status := c.State.Now(); status {
	case specs.StateCreated:
	case specs.StateRunning:
		return fmt.Errorf("cannot start %s: it is running already", id)
	case container.StatePaused:
		return fmt.Errorf("cannot start %s: %w", id, errPaused)
	default:
		return fmt.Errorf("cannot start %s: it is %s", id, status)
	}
	ctx, cancel := context.WithTimeout(context.Background(), agentTimeout)
	defer cancel()
	agent, err := g.agent(ctx, id)
	if err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	defer agent.Close()
	// A start that was killed before it could write the state has started the
	// container; then this one only writes it.
	state, err := json.Marshal(c.State.As(specs.StateCreated))
	if err != nil {
		return err
	}
	err = agent.Start(ctx, id, state)
	if err != nil && !errors.Is(err, client.ErrBadState) {
		err = fmt.Errorf("start %s: %w", id, err)
		if status, ok := client.ExitStatus(err); ok {
			return &exitError{status: status, err: err}
		}
		return err
	}
	return errors.Join(err, g.started(c))
}
