package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/host/wire"
)

// idleLimit ends a host nobody used for so long.
const idleLimit = 2 * time.Hour

// hostDir is a running host's directory.
type hostDir string

func (d hostDir) path(name string) string {
	return filepath.Join("/run/runv-testhost", string(d), name)
}
func (d hostDir) socket() string { return d.path("socket") }
func (d hostDir) log() string    { return d.path("log") }

// lock makes sure that one daemon serves the name. It is held for its life.
func (d hostDir) lock() (*os.File, error) {
	if err := os.MkdirAll(d.path(""), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("a host named %s is running already", string(d))
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

// start boots a host that stays and returns when it can be used.
func start(args []string) error {
	var o options
	fs := flag.NewFlagSet("start", flag.ContinueOnError)
	o.register(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return failf(exitUsage, "want one name\n%s", usage)
	}
	name := fs.Arg(0)
	if err := checkName(name); err != nil {
		return err
	}
	if len(o.shares) == 0 {
		cwd, err := os.Getwd()
		if err != nil {
			return err
		}
		dir, err := shareable(cwd)
		if err != nil {
			return fmt.Errorf("share the working directory (choose others with -w): %w", err)
		}
		o.shares = append(o.shares, dir)
	}
	began := time.Now()
	kind, err := spawnDaemon(name, &o)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "testhost: %s is up (%s) after %.1f s\n", name, kind, time.Since(began).Seconds())
	return nil
}

func spawnDaemon(name string, o *options) (kind string, err error) {
	dir := hostDir(name)
	if err := os.MkdirAll(dir.path(""), 0o700); err != nil {
		return "", err
	}
	log, err := os.OpenFile(dir.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	ready, readyOut, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer ready.Close()
	args := []string{"daemon", "-m", strconv.Itoa(o.memoryMiB), "-p", strconv.Itoa(o.cpus)}
	for _, dir := range o.shares {
		args = append(args, "-w", dir)
	}
	if o.limit > 0 {
		args = append(args, "-t", strconv.Itoa(int(o.limit/time.Second)))
	}
	cmd := exec.Command("/proc/self/exe", append(args, name)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{readyOut}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyOut.Close()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancelOnSignal(cancel)
	context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	answer, err := bufio.NewReader(ready).ReadString(0)
	if err == nil {
		answer = strings.TrimSuffix(answer, "\x00")
		if kind, ok := strings.CutPrefix(answer, "up "); ok {
			return kind, nil
		}
		return "", errors.New(answer)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", fmt.Errorf("the host's process ended: %v; see %s", cmd.Wait(), dir.log())
}

// daemon owns a host that stays. It reports on fd 3: "up KIND" or an error,
// ended by a zero byte.
func daemon(args []string) error {
	ready := os.NewFile(3, "ready")
	unix.CloseOnExec(3)
	kind, serve, err := daemonHost(args)
	if err != nil {
		fmt.Fprintf(ready, "%v\x00", err)
		return err
	}
	fmt.Fprintf(ready, "up %s\x00", kind)
	ready.Close()
	return serve()
}

func daemonHost(args []string) (kind string, serve func() error, err error) {
	o := options{limit: idleLimit}
	fs := flag.NewFlagSet("daemon", flag.ContinueOnError)
	o.register(fs)
	if err := parse(fs, args); err != nil {
		return "", nil, err
	}
	dir := hostDir(fs.Arg(0))
	lock, err := dir.lock()
	if err != nil {
		return "", nil, err
	}
	cleanup := func() {
		os.RemoveAll(dir.path(""))
		lock.Close()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancelOnSignal(cancel)
	h, err := startHost(ctx, &o)
	if err != nil {
		cleanup()
		return "", nil, err
	}
	os.Remove(dir.socket()) // of a daemon that was killed
	l, err := net.Listen("unix", dir.socket())
	if err != nil {
		h.kill()
		cleanup()
		return "", nil, err
	}
	r := newRelay(h)
	return h.kind, func() error {
		defer l.Close()
		go r.fromHost()
		go r.accept(l)
		select {
		case <-ctx.Done():
		case <-r.shutdown:
		case <-r.idle(o.limit):
		case <-h.exited:
			// The log stays, and says why.
			return fmt.Errorf("the host ended by itself: %v%s", h.waitErr, h.console)
		case <-r.lost:
			select {
			case <-h.exited:
			case <-time.After(10 * time.Second):
				h.kill()
			}
			return fmt.Errorf("the host is lost: %v%s", h.waitErr, h.console)
		}
		defer cleanup()
		_ = h.conn.Write(wire.Frame{Kind: wire.Shutdown})
		select {
		case <-h.exited:
		case <-time.After(10 * time.Second):
		}
		h.kill()
		return nil
	}, nil
}

// stop ends a host and returns when it is gone.
func stop(args []string) error {
	if len(args) != 1 {
		return failf(exitUsage, "want one name\n%s", usage)
	}
	name := args[0]
	if err := checkName(name); err != nil {
		return err
	}
	c, err := dialHost(name)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := wire.NewConn(c).Write(wire.Frame{Kind: wire.Shutdown}); err != nil {
		return err
	}
	// The daemon's end closes the connection.
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	return nil
}
