package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func checkCommand(*globals) *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "tell whether this host can run microVMs, and if not, why",
		Description: "Ends with 0 if it can.\n\n" +
			"Example:\n" +
			"   runv check",
		Action: func(c *cli.Context) error {
			f, err := openKVM()
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, "this host can run microVMs")
			return f.Close()
		},
	}
}
