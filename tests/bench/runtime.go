package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// limit bounds one command.
const limit = 10 * time.Minute

// runtime is one of those compared.
type runtime struct {
	name, path string
	options    []string // global ones
	template   bool     // it has templates to build
	dir        string   // for its state and what its commands say
}

// parseRuntime reads NAME=PATH[,OPTION]….
func parseRuntime(arg string) (*runtime, error) {
	name, rest, ok := strings.Cut(arg, "=")
	parts := strings.Split(rest, ",")
	if !ok || name == "" || strings.Contains(name, "/") || parts[0] == "" {
		return nil, fmt.Errorf("%s: want NAME=PATH[,OPTION]…", arg)
	}
	return &runtime{name: name, path: parts[0], options: parts[1:]}, nil
}

// result is how long a command took, and what it wrote to its standard output.
type result struct {
	took   time.Duration
	stdout string
}

// command runs a command of the runtime.
func (r *runtime) command(ctx context.Context, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	global := append([]string{"--root", filepath.Join(r.dir, "state-"+r.name)}, r.options...)
	cmd := exec.CommandContext(ctx, r.path, append(global, args...)...)
	cmd.WaitDelay = time.Minute
	// Files, not pipes: a detached container would hold a pipe open.
	stdout, err := os.CreateTemp(r.dir, "stdout-")
	if err != nil {
		return result{}, err
	}
	defer discard(stdout)
	stderr, err := os.CreateTemp(r.dir, "stderr-")
	if err != nil {
		return result{}, err
	}
	defer discard(stderr)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	said, readErr := os.ReadFile(stdout.Name())
	if err != nil {
		why, _ := os.ReadFile(stderr.Name()) // the error counts
		err = fmt.Errorf("%s: %w: %s", args[0], errors.Join(ctx.Err(), err), bytes.TrimSpace(append(why, lastLine(said)...)))
		return result{took, string(said)}, err
	}
	return result{took, string(said)}, readErr
}

// lastLine is the end of what a program said.
func lastLine(said []byte) []byte {
	said = bytes.TrimSpace(said)
	return said[bytes.LastIndexByte(said, '\n')+1:]
}

func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// remove ends a container whose state does not matter.
func (r *runtime) remove(ctx context.Context, id string) error {
	_, err := r.command(context.WithoutCancel(ctx), "delete", "--force", id)
	return err
}
