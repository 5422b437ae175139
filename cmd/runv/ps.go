package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/agent/client"
)

func psCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "list the processes of a container",
		ArgsUsage: "ID",
		Description: "The processes are those in the guest, their ids those they have in the container.\n" +
			"The format json is an array of these ids.\n\n" +
			"Example:\n" +
			"   runv ps web1",
		Flags: []cli.Flag{
			formatFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 1 {
				return fmt.Errorf("ps: %q: the processes are in a VM, where the options of ps(1) do not reach: leave them out", c.Args().Get(1))
			}
			id, err := oneID(c)
			if err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			return g.ps(os.Stdout, id, asJSON)
		},
	}
}

func (g *globals) ps(w io.Writer, id string, asJSON bool) error {
	// No lock: what is listed is a moment's truth anyway.
	s, err := g.store().Peek(id)
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
	return psTable(w, list, time.Now())
}

// psTable writes the columns of ps -ef.
func psTable(out io.Writer, list []client.Process, now time.Time) error {
	inside := make(map[int]int, len(list))
	for _, p := range list {
		inside[p.PID] = p.ContainerPID
	}
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	fmt.Fprintln(w, "UID\tPID\tPPID\tSTAT\tSTIME\tTTY\tTIME\tCMD")
	for _, p := range list {
		start := p.Started.Format("15:04")
		if now.Sub(p.Started) >= 24*time.Hour {
			start = p.Started.Format("Jan02")
		}
		seconds := int(p.CPUTime / time.Second)
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%s\t%02d:%02d:%02d\t%s\n", p.UID, p.ContainerPID, inside[p.ParentPID],
			p.State, start, ttyName(p.TTY), seconds/3600, seconds/60%60, seconds%60, psCommandLine(p))
	}
	return w.Flush()
}

// psCommandLine is the command line, or the name in brackets of a process that
// has none.
func psCommandLine(p client.Process) string {
	if line := strings.TrimSpace(strings.Join(p.Args, " ")); line != "" {
		return line
	}
	return "[" + p.Command + "]"
}

// ttyName is the name of a terminal with the device number dev, as in
// /proc/PID/stat: pts/0 and on have the majors 136 to 143.
func ttyName(dev uint32) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<20|minor)
	case major == 5 && minor == 1:
		return "console"
	}
	return fmt.Sprintf("%d:%d", major, minor)
}
