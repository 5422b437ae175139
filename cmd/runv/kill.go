package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

func killCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal to the process of a container",
		ArgsUsage: "ID [SIGNAL]",
		Description: "SIGNAL is a name, with or without SIG, or a number; TERM if left out.\n" +
			"The signal reaches the process in the guest. KILL ends the VM at once.\n" +
			"0 is no signal: it tells whether there is a process.\n\n" +
			"Example:\n" +
			"   runv kill web1 HUP",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "send it to all processes of the container"},
		},
		Action: func(c *cli.Context) error {
			if n := c.Args().Len(); n < 1 || n > 2 {
				return fmt.Errorf("kill: want the container's id and perhaps a signal: see `runv kill --help`")
			}
			name := c.Args().Get(1)
			if name == "" {
				name = "TERM"
			}
			sig, err := parseSignal(name)
			if err != nil {
				return fmt.Errorf("kill: %w", err)
			}
			return g.kill(c.Args().First(), sig, c.Bool("all"))
		},
	}
}

// parseSignal reads the number or the name of a signal. 0 is kill(2)'s, too.
func parseSignal(s string) (unix.Signal, error) {
	const realtimeMin, realtimeMax = 34, 64
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > realtimeMax {
			return 0, fmt.Errorf("no signal has the number %d", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	for prefix, base := range map[string]int{"RTMIN": realtimeMin, "RTMAX": realtimeMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil || (rest[0] != '+' && rest[0] != '-') {
				break
			}
		}
		if n += base; n >= realtimeMin && n <= realtimeMax {
			return unix.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("%q is no signal", s)
}

func (g *globals) kill(id string, sig unix.Signal, all bool) error {
	// No lock: a signal must reach a container that another verb waits for.
	s, err := g.peek(id)
	if err != nil {
		return err
	}
	err = checkActive(s)
	if errors.Is(err, errPaused) {
		switch sig {
		case 0:
			return nil
		case unix.SIGKILL: // what is frozen can still be killed
			err = nil
		default:
			// It waits for the resume with the VM process, which passes it on.
			if !all && sig != unix.SIGWINCH && slices.Contains(forwarded(), os.Signal(sig)) {
				return s.Process.Signal(sig)
			}
		}
	}
	if sig == unix.SIGKILL && err == nil {
		// As with any runtime the signal is all that is promised. That the
		// container is stopped afterwards is what it usually means.
		_, err := s.Process.Kill(killWait)
		return err
	}
	if all && errors.Is(err, errNotRunning) {
		return nil // it has reached all there are
	}
	if err != nil {
		return fmt.Errorf("cannot signal %s: %w", id, err)
	}
	if sig == 0 {
		return nil
	}
	err = g.ask(id, s, func(ctx context.Context, agent *client.Client) error {
		if all {
			return agent.SignalAll(ctx, id, sig)
		}
		return agent.Signal(ctx, id, "", sig)
	})
	if err != nil && !(all && errors.Is(err, errNotRunning)) {
		return fmt.Errorf("cannot signal %s: %w", id, err)
	}
	return nil
}
