package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/agent/client"
)

func psCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "list the processes of a container",
		ArgsUsage: "ID [PS-OPTION ...]",
		Description: "The processes are those in the guest, their ids those they have in the container.\n" +
			"The format json is an array of these ids. Of the options of ps(1) there are -e, -A,\n" +
			"a and x, which select all there are, -f (the default) and -o with a list of columns:\n" +
			strings.Join(slices.Sorted(maps.Keys(psColumns)), ", ") + ".\n\n" +
			"Examples:\n" +
			"   runv ps web1\n" +
			"   runv ps web1 -o pid,user,args",
		Flags: []cli.Flag{
			formatFlag(),
		},
		Action: func(c *cli.Context) error {
			id := c.Args().First()
			if id == "" {
				return errors.New("ps: the container's id is missing: see `runv ps --help`")
			}
			columns, err := parsePSOptions(c.Args().Tail())
			if err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			return g.ps(os.Stdout, id, asJSON, columns)
		},
	}
}

func (g *globals) ps(w io.Writer, id string, asJSON bool, columns []string) error {
	// No lock: what is listed is a moment's truth anyway.
	s, err := g.peek(id)
	if err != nil {
		return err
	}
	var list []client.Process
	err = checkActive(s)
	if err == nil {
		err = g.ask(id, s, func(ctx context.Context, agent *client.Client) (err error) {
			list, err = agent.Processes(ctx, id)
			return err
		})
	}
	// A container that has stopped has no processes, which is an answer.
	if err != nil && !errors.Is(err, errNotRunning) {
		return fmt.Errorf("cannot list the processes of %s: %w", id, err)
	}
	if asJSON {
		pids := make([]int, 0, len(list))
		for _, p := range list {
			pids = append(pids, p.ContainerPID)
		}
		return json.NewEncoder(w).Encode(pids)
	}
	return psTable(w, list, columns, time.Now())
}
