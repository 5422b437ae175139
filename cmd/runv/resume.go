package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
)

func resumeCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "resume",
		Usage:     "let a paused container go on",
		ArgsUsage: "ID",
		Description: "Returns when the VM process runs again.\n\n" +
			"Example:\n" +
			"   runv resume web1",
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			return g.resume(id)
		},
	}
}

func (g *globals) resume(id string) error {
	err := g.withCgroup(id, checkPaused, func(s *container.State) error {
		return cgroup.Thaw(s.Cgroup, freezeTimeout)
	})
	if err != nil {
		return fmt.Errorf("cannot resume %s: %w", id, err)
	}
	return nil
}

func checkPaused(s *container.State) error {
	if s.Now() != container.StatePaused {
		return errors.New("container not paused")
	}
	return nil
}
