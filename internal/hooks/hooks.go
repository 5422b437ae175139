// Package hooks runs the hooks of the OCI runtime specification ("POSIX-platform
// Hooks") that are the host's.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxOutput bounds what a failed hook adds to an error, in bytes.
const maxOutput = 1 << 10

// pipeDelay is how long the output of an ended hook may be held open by what it
// left behind.
const pipeDelay = time.Second

// Run runs hooks in their order, each with the state on its standard input, until
// one fails. kind is the list's name in config.json. The working directory is
// dir; a hook without env has this process's environment.
func Run(ctx context.Context, kind string, list []specs.Hook, state *specs.State, dir string) error {
	return each(ctx, kind, list, state, dir, func(err error) error { return err })
}

// RunAll runs hooks that must not stop a container: it calls warn for a failure
// and goes on. The working directory is the bundle.
func RunAll(ctx context.Context, kind string, list []specs.Hook, state *specs.State, warn func(error)) {
	_ = each(ctx, kind, list, state, state.Bundle, func(err error) error { warn(err); return nil })
}

func each(ctx context.Context, kind string, list []specs.Hook, state *specs.State, dir string, failed func(error) error) error {
	if len(list) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i, hook := range list {
		err := run(ctx, &hook, input, dir)
		if err == nil {
			continue
		}
		if err := failed(fmt.Errorf("error running %s hook #%d: %s: %w", kind, i, hook.Path, err)); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, hook *specs.Hook, state []byte, dir string) error {
	if hook.Timeout != nil {
		var cancel context.CancelFunc
		limit := time.Duration(*hook.Timeout) * time.Second
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %v, its timeout", limit))
		defer cancel()
	}
	output := &head{}
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		cmd.Dir = dir // a poststop hook may come after the bundle
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), output, output
	// What the hook has started goes with it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = pipeDelay
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay), errors.Is(err, unix.EPIPE):
		// It left something in the background, or did not want the state.
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%w%s", err, output)
	}
	return nil
}

// head keeps the beginning of what is written to it.
type head struct{ text []byte }

var _ io.Writer = (*head)(nil)

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), maxOutput-len(h.text))]...)
	return len(p), nil
}

// String is for the end of an error: empty, or a colon and the text.
func (h *head) String() string {
	text := strings.TrimSpace(string(h.text))
	if text == "" {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}
