package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/checkpoint"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/spec"
)

// imageName is where an image is without --image-path, as with runc.
const imageName = "checkpoint"

// imageFlags are the flags of checkpoint and restore. Those without effect are
// about what a VM has inside, or never had.
func imageFlags() []cli.Flag {
	list := []cli.Flag{
		&cli.StringFlag{Name: "image-path", Usage: "the checkpoint's `DIRECTORY` (default: ./" + imageName + ")"},
		&cli.StringFlag{Name: "work-path", Usage: "no effect: there are no files but those of the checkpoint"},
	}
	for _, f := range []struct{ name, why string }{
		{"shell-job", "a terminal is the guest's own"},
		{"ext-unix-sk", "Unix sockets are the guest's own"},
		{"file-locks", "locks are the guest's own, and always saved"},
		{"link-remap", "open files are found by their paths"},
		{"auto-dedup", "there are no earlier images"},
	} {
		list = append(list, &cli.BoolFlag{Name: f.name, Usage: "no effect: " + f.why})
	}
	return append(list,
		&cli.StringFlag{Name: "manage-cgroups-mode", Usage: "no effect: cgroups are made by restore, and the guest's saved"},
		&cli.StringSliceFlag{Name: "empty-ns", Usage: "no effect: namespaces of the host are not saved"},
		&cli.BoolFlag{Name: "tcp-established", Usage: "refused: see the description"},
		&cli.BoolFlag{Name: "lazy-pages", Usage: "refused: memory is saved and restored as a whole"},
	)
}

// checkImageFlags refuses what was asked for and cannot be.
func checkImageFlags(c *cli.Context) error {
	for _, f := range []struct{ name, why string }{
		{"tcp-established", "connections are sockets of the host's, which end: leave the flag out, and they are reset"},
		{"tcp-skip-in-flight", "connections are sockets of the host's, which end: leave the flag out, and they are reset"},
		{"lazy-pages", "memory is saved and restored as a whole"},
		{"page-server", "memory is written to --image-path"},
		{"pre-dump", "memory is saved as a whole, once"},
		{"parent-path", "memory is saved as a whole, once"},
		{"status-fd", "wait for the end of this command instead"},
		{"lsm-profile", "the guest's kernel has no such security module"},
		{"lsm-mount-context", "the guest's kernel has no such security module"},
	} {
		if c.IsSet(f.name) && c.String(f.name) != "" && c.String(f.name) != "false" {
			return fmt.Errorf("--%s: not supported: %s", f.name, f.why)
		}
	}
	return nil
}

func imagePath(c *cli.Context) (string, error) {
	path := c.String("image-path")
	if path == "" {
		path = imageName
	}
	return filepath.Abs(path)
}

func checkpointCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "checkpoint",
		Usage:     "save a running container, and end it",
		ArgsUsage: "ID",
		Description: "Writes the whole VM, memory included, to --image-path, from where `runv restore`\n" +
			"has it go on. Files are not saved: the bundle's root file system has to be as it was.\n" +
			"Network connections are sockets of the host's; after a restore they are reset. An\n" +
			"open file that was deleted cannot be saved, nor can processes that exec has started.\n" +
			"If it fails, the container goes on.\n\n" +
			"Example:\n" +
			"   runv checkpoint --image-path ./image web1 && runv restore --image-path ./image web1",
		Flags: append(imageFlags(),
			&cli.BoolFlag{Name: "leave-running", Usage: "the container goes on afterwards"},
			&cli.BoolFlag{Name: "tcp-skip-in-flight", Usage: "refused: see the description"},
			&cli.StringFlag{Name: "page-server", Usage: "refused: memory is written to --image-path"},
			&cli.BoolFlag{Name: "pre-dump", Usage: "refused: memory is saved as a whole, once"},
			&cli.StringFlag{Name: "parent-path", Usage: "refused: memory is saved as a whole, once"},
			&cli.StringFlag{Name: "status-fd", Usage: "refused: wait for the end of the command"},
		),
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err := errors.Join(err, checkImageFlags(c)); err != nil {
				return err
			}
			path, err := imagePath(c)
			if err == nil {
				err = g.checkpoint(id, path, c.Bool("leave-running"))
			}
			if err != nil {
				return fmt.Errorf("cannot checkpoint %s: %w", id, err)
			}
			return nil
		},
	}
}

// checkRunning accepts a container that runs.
func checkRunning(s *container.State) error {
	if status := s.Now(); status != specs.StateRunning {
		return fmt.Errorf("container not running: %s", status)
	}
	return nil
}

func (g *globals) checkpoint(id, path string, leave bool) error {
	c, err := g.openIf(id, checkRunning)
	if err != nil {
		return err
	}
	warnings, err := g.save(id, path, leave)
	for _, w := range warnings {
		g.log.Warn(w)
	}
	if err != nil || leave {
		return errors.Join(err, c.Unlock())
	}
	ended, err := c.State.Process.Wait(killTimeout)
	if err == nil && !ended {
		err = fmt.Errorf("the VM process does not end within %v", killTimeout)
	}
	if err != nil {
		return errors.Join(err, c.Unlock())
	}
	return g.destroy(c)
}

// save has the VM process write the container to a directory, which it makes if
// there is none, and removes again if that fails.
func (g *globals) save(id, path string, leave bool) (warnings []string, err error) {
	if _, statErr := os.Lstat(path); errors.Is(statErr, os.ErrNotExist) {
		defer func() {
			if err != nil {
				_ = os.Remove(path) // fails where there is something in it
			}
		}()
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	conn, err := g.store().DialAgent(context.Background(), id, checkpoint.Port)
	if err != nil {
		return nil, err
	}
	warnings, err = checkpoint.Save(conn, path, !leave)
	return warnings, errors.Join(err, conn.Close())
}

func restoreCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "have a saved container go on",
		ArgsUsage: "ID",
		Description: "Makes a container of the bundle, whose VM goes on from the checkpoint in\n" +
			"--image-path: on the same kind of processor, with the same size, and with the\n" +
			"root file system as it was. The image stays as it is.\n\n" +
			"Example, in the bundle:\n" +
			"   runv restore --image-path ./image web1",
		Flags: append(append(createFlags(), imageFlags()...),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait: return when the process runs"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "no effect: the guest reaps what the container leaves behind"},
			&cli.StringFlag{Name: "lsm-profile", Usage: "refused: the guest's kernel has no such security module"},
			&cli.StringFlag{Name: "lsm-mount-context", Usage: "refused: the guest's kernel has no such security module"},
		),
		Action: func(c *cli.Context) error {
			o, err := createArgs(c)
			if err := errors.Join(err, checkImageFlags(c)); err != nil {
				return err
			}
			if o.image, err = imagePath(c); err != nil {
				return err
			}
			o.foreground = !c.Bool("detach")
			return g.runContainer(o, false)
		},
	}
}

// fitsImage checks that a checkpoint can go on in a VM of this plan.
func fitsImage(plan *spec.Plan, dir string) error {
	image, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer image.Close()
	m := image.Machine
	if plan.Machine.MemoryBytes != m.MemoryBytes || plan.Machine.VCPUs != len(m.VCPUs) {
		return fmt.Errorf("the checkpoint is of a VM with %d MiB and %d processors, and this bundle makes one with %d MiB and %d: restore it with the limits it had, or set the annotations %s and %s",
			m.MemoryBytes>>20, len(m.VCPUs), plan.Machine.MemoryBytes>>20, plan.Machine.VCPUs, spec.AnnotationMemory, spec.AnnotationVCPUs)
	}
	return nil
}
