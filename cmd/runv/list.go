package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

func listCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the containers of this root directory",
		Description: "Example:\n" +
			"   runv list --format json",
		Flags: []cli.Flag{
			formatFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the ids only"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("list: takes no arguments")
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			return g.list(asJSON, c.Bool("quiet"))
		},
	}
}

func (g *globals) list(asJSON, quiet bool) error {
	states, damaged, err := g.store().List()
	if err != nil {
		return err
	}
	for _, id := range damaged {
		g.log.Warn("damaged state: `runv delete --force` removes it", "id", id)
	}
	all := make([]status, 0, len(states))
	for _, s := range states {
		all = append(all, statusOf(s))
	}
	switch {
	case quiet:
		for _, s := range all {
			fmt.Println(s.ID)
		}
		return nil
	case asJSON:
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.PID, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}
