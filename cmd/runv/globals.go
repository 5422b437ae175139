package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/logging"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/template"
)

// globals are the flags before the verb, and what follows from them.
type globals struct {
	root, logPath, logFormat string
	debug, systemdCgroup     bool
	openNetwork              bool
	rootless                 string
	kernel, initrd           string
	templates                string // a directory; templatesOff: none
	cage                     string

	log     *slog.Logger
	logFile *os.File // nil: no --log
}

// defaultRoot is where states live.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "runv")
	}
	return "/run/runv"
}

func (g *globals) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "root", Value: defaultRoot(), Usage: "`DIRECTORY` for the state of containers; it should be on a tmpfs", Destination: &g.root},
		&cli.StringFlag{Name: "log", Usage: "write the log to `FILE` instead of stderr", Destination: &g.logPath},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the log: text or json", Destination: &g.logFormat},
		&cli.BoolFlag{Name: "debug", Usage: "log what happens, with the stages of the start", Destination: &g.debug},
		&cli.BoolFlag{Name: "systemd-cgroup", Usage: "have systemd make the cgroup: linux.cgroupsPath is slice:prefix:name", Destination: &g.systemdCgroup},
		&cli.StringFlag{Name: "rootless", Value: "auto", Usage: "without root privileges: true (not supported: refused), false or auto", Destination: &g.rootless},
		&cli.StringFlag{Name: "cage", Value: spec.CageWarn, EnvVars: []string{"RUNV_CAGE"}, Usage: "on a host that lacks a layer of the VM process's confinement (see check): `POLICY` warn, or require to refuse", Destination: &g.cage},
		&cli.BoolFlag{Name: "open-network", EnvVars: []string{"RUNV_OPEN_NETWORK"}, Usage: "let annotations open link-local addresses and the host's loopback to containers; images can bring annotations", Destination: &g.openNetwork},
		&cli.StringFlag{Name: "kernel", Usage: "boot the uncompressed vmlinux `FILE` instead of the kernel inside this binary", Destination: &g.kernel},
		&cli.StringFlag{Name: "initrd", Usage: "boot with the initrd `FILE` instead of the one inside this binary", Destination: &g.initrd},
		&cli.StringFlag{Name: "templates", Value: template.DefaultDir, Usage: "`DIRECTORY` for prepared VMs to start from; off: boot every VM", Destination: &g.templates},
	}
}

// before checks the global flags and opens the log.
func (g *globals) before(*cli.Context) error {
	if g.logFormat != "text" && g.logFormat != "json" {
		return fmt.Errorf("--log-format %s: neither text nor json", g.logFormat)
	}
	if err := spec.CheckCage(g.cage); err != nil {
		return fmt.Errorf("--cage: %w", err)
	}
	level := slog.LevelInfo
	if g.debug {
		level = slog.LevelDebug
	}
	var w io.Writer = os.Stderr
	if g.logPath != "" {
		f, err := os.OpenFile(g.logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		g.logFile, w = f, f
	}
	g.log = logging.New(w, g.logFormat == "json", level)
	for _, file := range []*string{&g.kernel, &g.initrd, &g.root, &g.templates} {
		if *file == "" || file == &g.templates && *file == templatesOff {
			continue
		}
		path, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = path
	}
	switch g.rootless {
	case "auto", "false":
	case "true":
		return errors.New("--rootless=true: containers without root privileges are not supported: run as root")
	default:
		return fmt.Errorf("--rootless %s: neither true, false nor auto", g.rootless)
	}
	return nil
}

// begun is about when this process began to run code of ours.
var begun = time.Now()

// trace logs a stage of a verb and the time since the process began.
func (g *globals) trace(stage string) { traceVerb(g.log, stage) }

func traceVerb(log *slog.Logger, stage string) {
	log.Debug("stage", "verb", stage, "ms", float64(time.Since(begun).Microseconds())/1000)
}

func (g *globals) store() *container.Store { return container.NewStore(g.root) }

// report writes an error to stderr on one line, and to the log file.
func (g *globals) report(err error) {
	text := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
	if g.logFile != nil {
		g.log.Error(text)
	}
	fmt.Fprintf(os.Stderr, "runv: %s\n", text)
}

// oneID takes the only argument of a verb.
func oneID(c *cli.Context) (string, error) {
	switch c.Args().Len() {
	case 0:
		return "", fmt.Errorf("%s: the container's id is missing: see `runv %s --help`", c.Command.Name, c.Command.Name)
	case 1:
		return c.Args().First(), nil
	}
	return "", fmt.Errorf("%s: too many arguments: see `runv %s --help`", c.Command.Name, c.Command.Name)
}

// formatFlag is the flag of verbs that print a table, or JSON.
func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "`FORMAT`: table or json"}
}

// wantsJSON reads formatFlag.
func wantsJSON(c *cli.Context) (bool, error) {
	switch format := c.String("format"); format {
	case "table", "json":
		return format == "json", nil
	default:
		return false, fmt.Errorf("%s: --format %s: neither table nor json", c.Command.Name, format)
	}
}
