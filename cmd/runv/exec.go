package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/spec"
)

func execCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run one more process in a container",
		ArgsUsage: "ID COMMAND [ARGUMENT ...]",
		Description: "What the options leave out is as in the process of the bundle's config.json.\n" +
			"Ends with the process's exit status: 128+n if signal n killed it, 126 or 127 if\n" +
			"the program cannot be executed or does not exist, 255 if it was not started.\n" +
			"Signals go to the process. With --detach it goes on in the background: the pid\n" +
			"in the file is that of a process on the host that has its stdio, signals and\n" +
			"exit status.\n\n" +
			"Examples:\n" +
			"   runv exec --tty web1 sh\n" +
			"   runv exec --user 1000:1000 --env A=b web1 id",
		Flags: append(announceFlags("the process on the host"),
			&cli.StringFlag{Name: "console-socket", Usage: "send the terminal to the Unix socket at `PATH`"},
			&cli.StringFlag{Name: "cwd", Usage: "working `DIRECTORY` in the container"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `NAME=VALUE`; may be given again"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`UID[:GID]`"},
			&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "add the group `GID`; may be given again"},
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "`FILE` with the OCI process as JSON, in place of command and options"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait: return when the process runs"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "add a `CAPABILITY`; may be given again"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "set no_new_privs"},
			&cli.StringFlag{Name: "apparmor", Usage: "AppArmor `PROFILE` (unconfined, or an engine's default one: the guest kernel has no AppArmor)"},
			&cli.StringFlag{Name: "process-label", Usage: "SELinux `LABEL` (refused: the guest kernel has no SELinux)"},
			&cli.StringFlag{Name: "cgroup", Usage: "run in the cgroup `PATH`, which is below the container's own in the guest, or that (/)"},
			preserveFDsFlag(),
			&cli.BoolFlag{Name: "ignore-paused", Usage: "wait for the resume of a paused container"},
		),
		Action: func(c *cli.Context) error {
			err := g.execAction(c)
			var exit *exitError
			if err != nil && !asExit(err, &exit) {
				err = &exitError{status: statusNotStarted, err: err}
			}
			return err
		},
	}
}

// statusNotStarted is the exit status of an exec without a process.
const statusNotStarted = 255

// preserveFDsFlag is runc's; see checkPreserveFDs.
func preserveFDsFlag() cli.Flag {
	return &cli.IntFlag{Name: "preserve-fds", Usage: "pass `N` more descriptors (only 0: they cannot enter a VM)"}
}

func checkPreserveFDs(c *cli.Context) error {
	if n := c.Int("preserve-fds"); n != 0 {
		return fmt.Errorf("--preserve-fds %d: descriptors of the host cannot enter a VM: use stdio or a mount", n)
	}
	return nil
}

// execOptions are those that do not describe the process itself.
type execOptions struct {
	id, cgroup, consoleSocket string
	announcement
	detach bool
}

func (g *globals) execAction(c *cli.Context) error {
	o := execOptions{
		id:            c.Args().First(),
		cgroup:        c.String("cgroup"),
		announcement:  announceArgs(c),
		consoleSocket: c.String("console-socket"),
		detach:        c.Bool("detach"),
	}
	if o.id == "" {
		return errors.New("exec: the container's id is missing: see `runv exec --help`")
	}
	if err := checkPreserveFDs(c); err != nil {
		return err
	}
	s, err := g.peek(o.id)
	if err == nil {
		err = checkActive(s)
	}
	if errors.Is(err, errPaused) && c.Bool("ignore-paused") {
		// As for a process in a frozen cgroup: it is there, and runs when the
		// others do.
		err = cgroup.Await(s.Cgroup, func() bool { return s.Now() != container.StatePaused })
		if err == nil {
			err = checkActive(s)
		}
	}
	if errors.Is(err, errPaused) {
		return fmt.Errorf("cannot exec in a paused container: resume %s first, or let the process wait with --ignore-paused", o.id)
	}
	if err != nil {
		return fmt.Errorf("cannot exec in %s: %w", o.id, err)
	}
	process, err := execProcess(c, s)
	if err != nil {
		return err
	}
	process, warnings, err := spec.CheckProcess(process)
	if err != nil {
		return fmt.Errorf("cannot exec in %s: %w", o.id, err)
	}
	for _, warning := range warnings {
		g.log.Warn(warning)
	}
	return g.exec(o, s, process)
}

// execProcess puts together the process that the command line asks for.
func execProcess(c *cli.Context, s *container.State) (*specs.Process, error) {
	if file := c.String("process"); file != "" {
		if c.Args().Len() > 1 {
			return nil, errors.New("exec: --process already has a command: leave out the one after the id")
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		p, err := spec.ParseProcess(data)
		if err != nil {
			return nil, fmt.Errorf("--process %s: %w", file, err)
		}
		return p, nil
	}
	if c.Args().Len() < 2 {
		return nil, errors.New("exec: the command is missing: see `runv exec --help`")
	}
	config, err := spec.Load(s.Bundle)
	if err != nil {
		return nil, fmt.Errorf("the container's configuration is needed for what the options leave out (--process goes without): %w", err)
	}
	p := config.Process
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	p.Args = c.Args().Tail()
	p.Terminal = c.Bool("tty")
	p.Env = append(p.Env, c.StringSlice("env")...)
	if cwd := c.String("cwd"); cwd != "" {
		p.Cwd = path.Clean(cwd)
	}
	if c.IsSet("no-new-privs") {
		p.NoNewPrivileges = c.Bool("no-new-privs")
	}
	if c.IsSet("apparmor") {
		p.ApparmorProfile = c.String("apparmor")
	}
	if c.IsSet("process-label") {
		p.SelinuxLabel = c.String("process-label")
	}
	if user := c.String("user"); user != "" {
		if err := parseUser(&p.User, user); err != nil {
			return nil, err
		}
	}
	for _, gid := range c.Int64Slice("additional-gids") {
		if gid < 0 || gid > maxUserID {
			return nil, fmt.Errorf("--additional-gids %d: not a group id", gid)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	if add := c.StringSlice("cap"); len(add) > 0 {
		p.Capabilities = addCapabilities(p.Capabilities, add)
	}
	return p, nil
}

// maxUserID is the highest user or group id; the next one stands for none.
const maxUserID = 1<<32 - 2

// parseUser reads UID[:GID].
func parseUser(u *specs.User, s string) error {
	uid, gid, both := strings.Cut(s, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err == nil && both {
		var g uint64
		g, err = strconv.ParseUint(gid, 10, 32)
		u.GID = uint32(g)
	}
	if err != nil || n > maxUserID || uint64(u.GID) > maxUserID {
		return fmt.Errorf("--user %s: want UID or UID:GID in numbers", s)
	}
	u.UID = uint32(n)
	return nil
}

// addCapabilities adds to the sets that a program starts with. Ambient ones take
// inheritable ones, which are never added.
func addCapabilities(caps *specs.LinuxCapabilities, add []string) *specs.LinuxCapabilities {
	if caps == nil {
		caps = new(specs.LinuxCapabilities)
	}
	caps.Bounding = append(caps.Bounding, add...)
	caps.Effective = append(caps.Effective, add...)
	caps.Permitted = append(caps.Permitted, add...)
	if len(caps.Inheritable) > 0 {
		caps.Ambient = append(caps.Ambient, add...)
	}
	return caps
}

func (g *globals) exec(o execOptions, s *container.State, process *specs.Process) error {
	encoded, err := json.Marshal(process)
	if err != nil {
		return err
	}
	x := &execution{
		Root: g.root, ID: o.id, ExecID: rand.Text(), VM: s.Process,
		Process: encoded, Terminal: process.Terminal, Cgroup: o.cgroup,
	}
	term, err := openTerminal(terminalOptions{
		wanted: process.Terminal, size: process.ConsoleSize, socket: o.consoleSocket, foreground: !o.detach,
	})
	if err != nil {
		return err
	}
	defer term.Close()
	if slave := term.Slave(); slave != nil || o.detach {
		// A terminal of the container's own takes a process in its session.
		return g.execDetached(x, o, slave)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	ignoreSIGPIPE()
	status, err := x.run(context.Background(), g.log, signals, func() error {
		return o.make(os.Getpid())
	})
	if err != nil {
		return err
	}
	return withStatus(status)
}
