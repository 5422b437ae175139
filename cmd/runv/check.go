package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/hostcheck"
)

func checkCommand(*globals) *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "tell whether this host can run microVMs, what it lacks, and what to do",
		Description: "Ends with 0 if it can. With \"warn\" it works, but slower or less well protected.\n\n" +
			"Example:\n" +
			"   runv check",
		Flags: []cli.Flag{
			formatFlag(),
		},
		Action: func(c *cli.Context) error {
			asJSON, err := wantsJSON(c)
			if c.Args().Present() {
				err = errors.New("check: takes no arguments")
			}
			if err != nil {
				return err
			}
			results := hostcheck.Run(c.Context)
			if asJSON {
				if err := printJSON(results); err != nil {
					return err
				}
			} else {
				w := tabwriter.NewWriter(c.App.Writer, 0, 1, 2, ' ', 0)
				for _, r := range results {
					fmt.Fprintf(w, "%s\t%s\t%s\n", r.Status, r.Name, r.Detail)
					if r.Advice != "" {
						fmt.Fprintf(w, "\t\t→ %s\n", r.Advice)
					}
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			if hostcheck.Failed(results) {
				return fmt.Errorf("this host cannot run microVMs: see the failed checks above")
			}
			return nil
		},
	}
}
