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

// checkActive returns an error unless the container has a process to ask for.
func checkActive(s *container.State) error {
	switch status := s.Now(); status {
	case specs.StateCreated, specs.StateRunning:
		return nil
	default:
		return fmt.Errorf("%w: it is %s", errNotRunning, status)
	}
}

var errNotRunning = errors.New("container not running")

// ask connects to the agent of an active container for one request. Should the
// container end meanwhile, the error is errNotRunning.
func (g *globals) ask(id string, s *container.State, request func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), agentTimeout)
	defer cancel()
	agent, err := g.agent(ctx, id)
	if err == nil {
		defer agent.Close()
		err = request(ctx, agent)
	}
	if err != nil && (!s.Process.Alive() || errors.Is(err, client.ErrBadState)) {
		return errNotRunning
	}
	return err
}

func (g *globals) start(id string) error {
	c, err := g.store().Open(id)
	if err != nil {
		if c != nil {
			c.Unlock()
		}
		return err
	}
	defer c.Unlock()
	switch status := c.State.Now(); status {
	case specs.StateCreated:
	case specs.StateRunning:
		return fmt.Errorf("cannot start %s: it is running already", id)
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
