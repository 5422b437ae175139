package main

import (
	"github.com/urfave/cli/v2"
)

func createCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "create a container, but do not start its process",
		ArgsUsage: "ID",
		Description: "Boots the microVM and prepares the container in it, up to the moment before its\n" +
			"program is executed. `runv start` continues. The VM process has the container's\n" +
			"stdio, and exits with its status.\n\n" +
			"Example:\n" +
			"   runv create --bundle ./mybundle web1 && runv start web1",
		Flags: createFlags(),
		Action: func(c *cli.Context) error {
			o, err := createArgs(c)
			if err != nil {
				return err
			}
			cr, err := g.create(o)
			if err != nil {
				return err
			}
			cr.terminal.Close()
			if err := cr.process.Release(); err != nil {
				g.log.Debug("sync socket", "err", err)
			}
			return cr.container.Unlock()
		},
	}
}
