package main

import (
	"errors"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
)

func pauseCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "pause",
		Usage:     "stop the VM of a container where it is",
		ArgsUsage: "ID",
		Description: "The VM process is frozen: its processors do not run, and what asks the guest (exec,\n" +
			"ps, update) is refused; signals but KILL wait. `runv resume` lets it go on; for the\n" +
			"guest the time in between has passed.\n\n" +
			"Example:\n" +
			"   runv pause web1",
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			return g.pause(id)
		},
	}
}

// freezeTimeout bounds how long a VM process may take to stop or to go on.
const freezeTimeout = 10 * time.Second

func (g *globals) pause(id string) error {
	err := g.withCgroup(id, checkPausable, func(s *container.State) error {
		if err := cgroup.Freeze(s.Cgroup, freezeTimeout); err != nil {
			return err
		}
		if s.Process.Alive() {
			return nil
		}
		// What is frozen is empty. Nobody could tell it from a paused container
		// if it became the cgroup of the next one.
		return errors.Join(errNotRunning, cgroup.Thaw(s.Cgroup, freezeTimeout))
	})
	if err != nil {
		return fmt.Errorf("cannot pause %s: %w", id, err)
	}
	return nil
}

// checkPausable has the words that engines look for.
func checkPausable(s *container.State) error {
	switch status := s.Now(); status {
	case specs.StateCreated, specs.StateRunning:
		return nil
	default:
		return fmt.Errorf("container not running or created: %s", status)
	}
}

// withCgroup works on the cgroup of a container that check accepts, locked.
func (g *globals) withCgroup(id string, check, work func(*container.State) error) error {
	c, err := g.openIf(id, check)
	if err != nil {
		return err
	}
	defer c.Unlock()
	if c.State.Cgroup == "" {
		return errors.New("the container has no cgroup: mount cgroup v2 on /sys/fs/cgroup and create it again")
	}
	return work(&c.State)
}

// open locks a container whose state is whole.
func (g *globals) open(id string) (*container.Container, error) {
	c, err := g.store().Open(id)
	if err != nil && c != nil {
		return nil, errors.Join(err, c.Unlock())
	}
	return c, err
}

// openIf locks a container that check accepts.
func (g *globals) openIf(id string, check func(*container.State) error) (*container.Container, error) {
	// A container being created is locked until it is: do not wait for that.
	s, err := g.peek(id)
	if err != nil {
		return nil, err
	}
	if err := check(s); err != nil {
		return nil, err
	}
	c, err := g.open(id)
	if err != nil {
		return nil, err
	}
	if err := check(&c.State); err != nil {
		return nil, errors.Join(err, c.Unlock())
	}
	return c, nil
}
