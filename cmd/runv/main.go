// The VM process may sit in a cgroup of the engine's; how many threads run Go
// code does not follow it, and no descriptor of it is kept open.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command runv is an OCI runtime whose containers are virtual machines.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/vmprocess"
)

// version and commit are set by the build.
var (
	version = "devel"
	commit  = "unknown"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "vm": // started by create and run: see package sandbox
			nameProcess()
			os.Exit(vmprocess.Main())
		case execArg:
			nameProcess()
			os.Exit(execMain())
		}
	}
	os.Exit(run(os.Args))
}

// nameProcess gives a process that was started through /proc/self the name that
// ps and the kernel's log show. Threads have one of their own, and later ones
// that of the thread which makes them.
func nameProcess() {
	threads, _ := filepath.Glob("/proc/self/task/*/comm")
	for _, thread := range threads {
		_ = os.WriteFile(thread, []byte("runv"), 0)
	}
}

// run runs one verb and has the exit status.
func run(args []string) int {
	var g globals
	app := newApp(&g)
	err := app.Run(optionsFirst(app, args))
	if err == nil {
		return 0
	}
	status := 1
	var exit *exitError
	if asExit(err, &exit) {
		status = exit.status
	}
	if err := errorOf(err); err != nil {
		g.report(err)
	}
	return status
}

func newApp(g *globals) *cli.App {
	cli.VersionPrinter = printVersion
	cli.VersionFlag = &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"}
	return &cli.App{
		Name:      "runv",
		Usage:     "Open Container Initiative runtime whose containers are microVMs",
		UsageText: "runv [global options] command [options] [arguments]",
		Description: "A container of runv is a small virtual machine with a Linux kernel of its own.\n" +
			"Use it like runc: an engine calls it (podman --runtime runv …), or you do:\n\n" +
			"   mkdir -p bundle/rootfs && cd bundle\n" +
			"   tar -C rootfs -xf image.tar        # any root file system\n" +
			"   runv spec                          # writes config.json\n" +
			"   runv run mycontainer",
		Version:                   version,
		Flags:                     append(g.flags(), cli.HelpFlag), // not by itself where there is a command of that name
		Before:                    g.before,
		Commands:                  commands(g),
		HideHelpCommand:           true,
		CommandNotFound:           nil,
		OnUsageError:              usageError,
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true,
		UseShortOptionHandling:    false,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("%s: no such command: `runv --help` lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
}

func commands(g *globals) []*cli.Command {
	list := []*cli.Command{
		runCommand(g), createCommand(g), startCommand(g), execCommand(g), stateCommand(g), killCommand(g), psCommand(g), deleteCommand(g),
		pauseCommand(g), resumeCommand(g), checkpointCommand(g), restoreCommand(g), updateCommand(g), eventsCommand(g),
		listCommand(g), specCommand(g), featuresCommand(g), checkCommand(g), templateCommand(g), helpCommand(),
	}
	for _, command := range list {
		command.OnUsageError = usageError
		command.HideHelpCommand = true
	}
	return list
}

func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Aliases:   []string{"h"},
		Usage:     "print the list of commands, or the help of one",
		ArgsUsage: "[COMMAND]",
		Description: "Example:\n" +
			"   runv help kill",
		Action: func(c *cli.Context) error {
			app := c.Lineage()[1]
			switch c.NArg() {
			case 0:
				return cli.ShowAppHelp(app)
			case 1:
				if name := c.Args().First(); app.App.Command(name) == nil {
					return fmt.Errorf("%s: no such command: `runv --help` lists them", name)
				}
				return cli.ShowCommandHelp(app, c.Args().First())
			}
			return fmt.Errorf("help takes the name of one command")
		},
	}
}

// usageError keeps the help text off stderr: engines show the last line.
func usageError(c *cli.Context, err error, _ bool) error {
	name := "runv"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "runv" {
		name += " " + c.Command.Name
	}
	return fmt.Errorf("%w: see `%s --help`", err, name)
}
