package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/template"
	"runv.dev/runv/internal/vmprocess"
	"runv.dev/runv/vmm/snapshot"
)

// templatesOff is the value of --templates for none.
const templatesOff = "off"

// templateDir is where a container's template may be; empty: it boots.
func (g *globals) templateDir(plan *spec.Plan) string {
	if g.templates == templatesOff || plan.NoTemplate {
		return ""
	}
	return g.templates
}

func templateCommand(g *globals) *cli.Command {
	c := &cli.Command{
		Name:  "template",
		Usage: "prepared VMs, of which containers start as clones: build, list, prune",
		Description: "They are built by themselves: the first container of a size boots, and the next\n" +
			"ones are clones. docs/templates.md says what a template is and when it fits.\n\n" +
			"Example:\n" +
			"   runv template build --bundle /bundle\n" +
			"   runv template list",
		Subcommands: []*cli.Command{
			templateBuildCommand(g), templateListCommand(g), templatePruneCommand(g),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("template %s: no such command: there are build, list and prune", c.Args().First())
			}
			return errors.New("template: build, list or prune? See `runv template --help`")
		},
	}
	for _, sub := range c.Subcommands {
		sub.OnUsageError = usageError
		sub.HideHelpCommand = true
	}
	return c
}

func templateBuildCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:  "build",
		Usage: "build the template for a size of VM, unless there is one",
		Description: "The size is that of the bundle's container, or as given.\n\n" +
			"Example:\n" +
			"   runv template build --bundle ./mybundle\n" +
			"   runv template build --memory 2147483648 --vcpus 2",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "`DIRECTORY` with the config.json of such a container"},
			&cli.Uint64Flag{Name: "memory", Usage: "RAM of the VM in `BYTES`, a multiple of 2 MiB, instead of the bundle's"},
			&cli.IntFlag{Name: "vcpus", Usage: "`NUMBER` of virtual processors, instead of the bundle's"},
			&cli.BoolFlag{Name: "replace", Usage: "build it even if there is one, but for one of the last ten minutes"},
			&cli.BoolFlag{Name: "no-wait", Usage: "give up if another template is being built"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return errors.New("template build: takes no arguments")
			}
			if g.templates == templatesOff {
				return errors.New("template build: templates are off: name a directory with --templates")
			}
			shape, err := g.shape(c)
			if err != nil {
				return err
			}
			kvm, err := openKVM()
			if err != nil {
				return err
			}
			defer kvm.Close()
			key, err := shape.MakeKey()
			if err != nil {
				return err
			}
			built, err := template.NewStore(g.templates).Build(key, template.BuildOptions{
				Wait: !c.Bool("no-wait"), Replace: c.Bool("replace"),
				Make: func(memory *os.File) (*snapshot.Machine, error) {
					return vmprocess.Prepare(c.Context, g.log, kvm, shape, memory)
				},
			})
			if err != nil {
				return fmt.Errorf("template build: %w", err)
			}
			verb := "is there already"
			if built {
				verb = "built"
			}
			fmt.Fprintf(c.App.Writer, "template %s: %s\n", key, verb)
			return nil
		},
	}
}

// shape is the size that the flags ask for.
func (g *globals) shape(c *cli.Context) (template.Shape, error) {
	shape := template.Shape{
		MemoryBytes: c.Uint64("memory"), VCPUs: c.Int("vcpus"), Kernel: g.kernel, Initrd: g.initrd,
	}
	if shape.MemoryBytes != 0 && shape.VCPUs != 0 {
		return shape, nil
	}
	plan, err := g.plan(createOptions{id: "template", bundle: c.String("bundle")})
	if err != nil {
		return shape, fmt.Errorf("template build: %w: name a bundle, or give --memory and --vcpus", err)
	}
	if shape.MemoryBytes == 0 {
		shape.MemoryBytes = plan.Machine.MemoryBytes
	}
	if shape.VCPUs == 0 {
		shape.VCPUs = plan.Machine.VCPUs
	}
	return shape, nil
}

func templateListCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the templates, and why one cannot be used",
		Flags: []cli.Flag{formatFlag()},
		Action: func(c *cli.Context) error {
			asJSON, err := wantsJSON(c)
			if c.Args().Present() {
				err = errors.New("template list: takes no arguments")
			}
			if err != nil {
				return err
			}
			var list []template.Info
			if g.templates != templatesOff {
				if list, err = template.NewStore(g.templates).List(); err != nil {
					return fmt.Errorf("template list: %w", err)
				}
			}
			if asJSON {
				if list == nil {
					list = []template.Info{}
				}
				return printJSON(list)
			}
			w := tabwriter.NewWriter(c.App.Writer, 12, 1, 3, ' ', 0)
			fmt.Fprintln(w, "KEY\tMEMORY\tVCPUS\tDISK\tBUILT\tUSED\tPROBLEM")
			for _, t := range list {
				fmt.Fprintf(w, "%s\t%d MiB\t%d\t%d MiB\t%s\t%s\t%s\n", t.Key, t.MemoryBytes>>20, t.VCPUs, t.DiskBytes>>20,
					t.Built.Format(time.RFC3339), t.Used.Format(time.RFC3339), t.Problem)
			}
			return w.Flush()
		},
	}
}

func templatePruneCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:  "prune",
		Usage: "remove the templates that cannot be used any more, and what interrupted builds have left",
		Description: "Containers that run are not affected.\n\n" +
			"Example:\n" +
			"   runv template prune --all",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "remove every template"}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return errors.New("template prune: takes no arguments")
			}
			if g.templates == templatesOff {
				return nil
			}
			removed, err := template.NewStore(g.templates).Prune(c.Bool("all"))
			for _, t := range removed {
				fmt.Fprintf(c.App.Writer, "%s\n", t.Key)
			}
			if err != nil {
				return fmt.Errorf("template prune: %w", err)
			}
			return nil
		},
	}
}

// coldBooted says why a container's guest was booted, and has a template built
// for the next ones.
func (g *globals) coldBooted(cold *sandbox.ColdBoot, machine spec.Machine) {
	reason := cold.Reason
	shape := template.Shape{MemoryBytes: machine.MemoryBytes, VCPUs: machine.VCPUs, Kernel: g.kernel, Initrd: g.initrd}
	key, err := shape.MakeKey()
	if err == nil {
		err = template.NewStore(g.templates).Failed(key)
	}
	if err == nil {
		err = g.buildTemplate(machine, cold.Refused)
	}
	if err != nil {
		reason += ": " + err.Error()
	}
	// Not on stderr, which is the container's: it works all the same.
	if g.logFile != nil || g.debug {
		g.log.Info("the guest was booted instead of cloned", "reason", reason)
	}
}

// buildTemplate starts a process that builds a template and outlives this one.
func (g *globals) buildTemplate(machine spec.Machine, replace bool) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args := []string{"runv", "--templates", g.templates}
	for _, o := range []struct{ flag, value string }{{"--kernel", g.kernel}, {"--initrd", g.initrd}} {
		if o.value != "" {
			args = append(args, o.flag, o.value)
		}
	}
	args = append(args, "template", "build", "--no-wait",
		fmt.Sprintf("--memory=%d", machine.MemoryBytes), fmt.Sprintf("--vcpus=%d", machine.VCPUs))
	if replace {
		args = append(args, "--replace")
	}
	child, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start building a template: %w", err)
	}
	// The container comes first.
	const low = 10
	_ = unix.Setpriority(unix.PRIO_PROCESS, child.Pid, low) // a matter of taste
	return child.Release()
}
