package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// runtime is one of those compared.
type runtime struct {
	name, path string
	options    []string // global ones
	template   bool     // it has templates to build
}

// limit bounds one command.
const limit = 5 * time.Minute

type bench struct {
	dir     string
	samples samples
}

// command runs the runtime and adds its time to the measurements of kind; an
// empty kind is not measured.
func (b *bench) command(ctx context.Context, r runtime, kind string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	options := append([]string{"--root", filepath.Join(b.dir, "state-"+r.name)}, r.options...)
	cmd := exec.CommandContext(ctx, r.path, append(options, args...)...)
	// Files, not pipes: a detached container would hold a pipe open.
	output, err := os.Create(filepath.Join(b.dir, "output"))
	if err != nil {
		return err
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		text, _ := os.ReadFile(output.Name()) // the error counts
		return fmt.Errorf("%q: %w: %s", args, err, bytes.TrimSpace(text))
	}
	if kind != "" {
		b.samples.add(kind, r.name, took)
	}
	return nil
}

// prepare copies the program, so that none is read from a slower file system than
// another's, and builds its templates.
func (b *bench) prepare(ctx context.Context, r *runtime) error {
	program, err := os.ReadFile(r.path)
	if err != nil {
		return err
	}
	r.path = filepath.Join(b.dir, r.name)
	if err := os.WriteFile(r.path, program, 0o755); err != nil || !r.template {
		return err
	}
	bundle, err := b.bundle("short", "/bin/true")
	if err != nil {
		return err
	}
	return b.command(ctx, *r, "", "template", "build", "--bundle", bundle)
}

// round measures everything once.
func (b *bench) round(ctx context.Context, r runtime) (err error) {
	short, err := b.bundle("short", "/bin/true")
	if err != nil {
		return err
	}
	if err := b.command(ctx, r, "run /bin/true", "run", "--bundle", short, "short"); err != nil {
		return err
	}
	long, err := b.bundle("long", "/bin/sleep", "1000")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = b.command(context.WithoutCancel(ctx), r, "", "delete", "--force", "long")
		}
	}()
	for _, step := range []struct {
		kind string
		args []string
	}{
		{"create", []string{"create", "--bundle", long, "long"}},
		{"start", []string{"start", "long"}},
		{"exec /bin/true", []string{"exec", "long", "/bin/true"}},
		{"state", []string{"state", "long"}},
		{"delete --force", []string{"delete", "--force", "long"}},
	} {
		if err := b.command(ctx, r, step.kind, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// bundle makes a bundle with busybox that every runtime accepts.
func (b *bench) bundle(name string, args ...string) (string, error) {
	dir := filepath.Join(b.dir, name)
	bin := filepath.Join(dir, "rootfs/bin")
	if _, err := os.Stat(bin); err == nil {
		return dir, nil
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return "", err
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		return "", err
	}
	for _, tool := range []string{"true", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(bin, tool)); err != nil {
			return "", err
		}
	}
	data, err := json.MarshalIndent(config(args), "", "  ")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

// config is what an engine would ask for a small container: 256 MiB, one CPU.
func config(args []string) any {
	type object = map[string]any
	type list = []any
	mount := func(destination, kind, source string, options ...any) object {
		return object{"destination": destination, "type": kind, "source": source, "options": options}
	}
	return object{
		"ociVersion": "1.0.2",
		"process":    object{"user": object{"uid": 0, "gid": 0}, "args": args, "env": list{"PATH=/bin"}, "cwd": "/"},
		"root":       object{"path": "rootfs"},
		"hostname":   "bench",
		"mounts": list{
			mount("/proc", "proc", "proc"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		},
		"linux": object{
			"resources": object{
				"memory": object{"limit": 256 << 20},
				"cpu":    object{"quota": 100000, "period": 100000},
			},
			"namespaces": list{
				object{"type": "pid"}, object{"type": "network"}, object{"type": "ipc"}, object{"type": "uts"}, object{"type": "mount"},
			},
		},
	}
}
