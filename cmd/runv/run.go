package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/container"
)

func runCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "create and start a container, and wait for it",
		ArgsUsage: "ID",
		Description: "Boots a microVM, runs the process of the bundle's config.json in it, and ends\n" +
			"with its exit status: 128+n if signal n killed it, 126 or 127 if the program\n" +
			"cannot be executed or does not exist, 255 if the guest died.\n" +
			"Signals go to the process. Afterwards nothing is left, unless --keep is given.\n\n" +
			"Example, in a bundle:\n" +
			"   echo hello | runv run --bundle ./mybundle hello1",
		Flags: append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait: return when the process runs"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "no effect: the guest reaps what the container leaves behind"},
			&cli.BoolFlag{Name: "keep", Usage: "keep the state of the ended container, until it is deleted"},
		),
		Action: func(c *cli.Context) error {
			o, err := createArgs(c)
			if err != nil {
				return err
			}
			o.foreground = !c.Bool("detach")
			return g.runContainer(o, c.Bool("keep"))
		},
	}
}

// createFlags are the flags of create and run.
func createFlags() []cli.Flag {
	return append(announceFlags("the VM process"),
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "`DIRECTORY` with config.json"},
		&cli.StringFlag{Name: "console-socket", Usage: "send the terminal to the Unix socket at `PATH`"},
		preserveFDsFlag(),
		&cli.BoolFlag{Name: "no-pivot", Usage: "no effect: the VM process always has a root of its own"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "no effect: the guest has its own keyrings"},
	)
}

func createArgs(c *cli.Context) (createOptions, error) {
	id, err := oneID(c)
	err = errors.Join(err, checkPreserveFDs(c))
	return createOptions{
		id:            id,
		bundle:        c.String("bundle"),
		announcement:  announceArgs(c),
		consoleSocket: c.String("console-socket"),
	}, err
}

func (g *globals) runContainer(o createOptions, keep bool) error {
	o.start = true
	cr, err := g.create(o)
	if err != nil {
		return err
	}
	defer cr.terminal.Close()
	if err := cr.started(); err != nil {
		cr.undo()
		return err
	}
	if err := cr.process.Release(); err != nil {
		g.log.Debug("sync socket", "err", err)
	}
	// Other verbs may act on it while it runs.
	if err := cr.container.Unlock(); err != nil {
		return err
	}
	if !o.foreground {
		return nil
	}
	status, err := waitForwarding(cr.process.Process, cr.signals)
	if errors.Is(err, cage.ErrKilled) {
		g.report(err)
		err = nil
	}
	if err != nil {
		return err
	}
	g.trace("VM process ended")
	defer g.trace("cleaned up")
	if keep {
		return withStatus(status)
	}
	// Somebody may have deleted it, or even created another one of this name.
	process := cr.container.State.Process
	err = cr.container.Relock()
	switch {
	case errors.Is(err, container.ErrNotExist):
		return withStatus(status)
	case err == nil && cr.container.State.Process != process:
		return errors.Join(withStatus(status), cr.container.Unlock())
	case err == nil || errors.Is(err, container.ErrIncomplete):
		err = cr.destroy()
	}
	if err != nil {
		err = fmt.Errorf("clean up: %w", err)
		if status == 0 {
			return err
		}
		g.report(err)
	}
	return withStatus(status)
}
