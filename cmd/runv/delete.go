package main

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/container"
)

func deleteCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "remove what is left of a container",
		ArgsUsage: "ID",
		Description: "Removes the state and the cgroup of a stopped container; one that was created but\n" +
			"never started is ended first. With --force a running one too, and it is no\n" +
			"error if there is none.\n\n" +
			"Example:\n" +
			"   runv delete --force web1",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "end it if it runs"},
		},
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			return g.delete(id, c.Bool("force"))
		},
	}
}

func (g *globals) delete(id string, force bool) error {
	c, err := g.store().Open(id)
	switch {
	case errors.Is(err, container.ErrNotExist) && force:
		return nil
	case errors.Is(err, container.ErrIncomplete), errors.Is(err, container.ErrDamaged) && force:
		return c.Remove()
	case err != nil:
		if c != nil {
			c.Unlock()
		}
		return err
	}
	if status := c.State.Now(); !force && status != specs.StateStopped && status != specs.StateCreated {
		c.Unlock()
		return fmt.Errorf("cannot delete container %s that is not stopped: it is %s: use `runv kill` first, or --force", id, status)
	}
	// Also of a container whose create died: its process may be about to end.
	if err := g.end(c.State.Process); err != nil {
		c.Unlock()
		return fmt.Errorf("delete %s: %w", id, err)
	}
	if err := g.destroy(c); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return nil
}

// end kills a VM process and waits until it is gone.
func (g *globals) end(p container.Process) error {
	ended, err := p.Kill(silence)
	if err == nil && !ended {
		g.log.Warn("waiting for the killed VM process to be gone", "pid", p.PID)
		ended, err = p.Kill(killTimeout - silence)
	}
	if err == nil && !ended {
		err = fmt.Errorf("process %d is still there %v after SIGKILL: /proc/%[1]d/stack has what it waits for: try again when that is over", p.PID, killTimeout)
	}
	return err
}
