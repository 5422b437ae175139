// Package guest is the agent: process 1 of the guest, which mounts what the
// guest itself needs, serves the protocol, runs containers and their processes,
// and reaps orphans.
//
// The workload is its enemy too. A container with a PID namespace of its own
// cannot name the agent; connections that do not come from the host are
// refused; and the steps that run inside of a container's root file system are
// those of package initproc, in a process of their own.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/guest/netdevice"
	"runv.dev/runv/agent/protocol"
)

// Options are what an agent gets from its surroundings.
type Options struct {
	// Control and Stream are the listeners of the two ports.
	Control, Stream net.Listener
	// CgroupRoot is the directory of the cgroup (version 2) below which
	// containers get theirs.
	CgroupRoot string
	// Rootfs tells how to mount the share with a tag.
	Rootfs func(tag string) initproc.Rootfs
	// Reset ends the guest.
	Reset func()
	Log   *slog.Logger
	// ClaimTimeout is how long a process may run that is to be killed unless
	// somebody waits for it; 0: 10 seconds.
	ClaimTimeout time.Duration
}

// Agent serves the protocol.
type Agent struct {
	opts   Options
	log    *slog.Logger
	exe    string
	null   *os.File
	stderr *os.File
	reaper *reaper
	hub    *hub

	mu         sync.Mutex
	containers map[string]*container // nil value: being created
	idle       *child                // started ahead of time; may be nil

	network sync.Mutex
	mirror  netdevice.Mirror // under network

	rootMount sync.Mutex // held while a root is mounted for a user namespace to take
}

// New makes an agent and starts the process that will become the first
// container's. The program must call initproc.Main if its first argument is
// initproc.InitArg or ExecArg.
func New(opts Options) (*Agent, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if opts.ClaimTimeout == 0 {
		opts.ClaimTimeout = claimTimeout
	}
	a := &Agent{
		opts:       opts,
		log:        opts.Log,
		exe:        "/proc/self/exe",
		null:       null,
		stderr:     os.Stderr,
		reaper:     newReaper(),
		hub:        newHub(),
		containers: make(map[string]*container),
	}
	return a, nil
}

// Run serves until ctx ends or a listener fails.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go a.reaper.run(ctx.Done())
	a.prestart()

	log.L.Logger.SetOutput(logWriter{a.log})
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	protocol.RegisterAgentService(server, &service{agent: a})
	go func() {
		cancel(fmt.Errorf("serve the control port: %w", server.Serve(ctx, a.opts.Control)))
	}()
	go func() {
		cancel(fmt.Errorf("serve the stream port: %w", a.hub.serve(a.opts.Stream, func(err error) {
			a.log.Warn("refused a stream", "error", err)
		})))
	}()
	<-ctx.Done()
	err = errors.Join(server.Close(), a.opts.Stream.Close())
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// prestart starts a child for the next container.
func (a *Agent) prestart() {
	c, err := a.spawn(initproc.InitArg, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, &birthplace{})
	if err != nil {
		a.log.Warn("start a container's process ahead of time", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idle = c
}

// takeChild has an idle child for a container with these namespaces: the one
// that was started ahead of time, if it fits.
func (a *Agent) takeChild(namespaces int, linux *specs.Linux) (*child, error) {
	user := namespaces&unix.CLONE_NEWUSER != 0
	if namespaces&unix.CLONE_NEWPID != 0 && !user {
		a.mu.Lock()
		c := a.idle
		a.idle = nil
		a.mu.Unlock()
		if c != nil {
			if err := c.waitIdle(); err == nil {
				return c, nil
			}
			a.abandon(c)
		}
	}
	sys := &syscall.SysProcAttr{Cloneflags: uintptr(namespaces & unix.CLONE_NEWPID)}
	if user {
		mapUsers(sys, linux)
	}
	c, err := a.spawn(initproc.InitArg, sys, &birthplace{})
	if err != nil {
		return nil, err
	}
	if err := c.waitIdle(); err != nil {
		a.abandon(c)
		return nil, c.lost(err)
	}
	return c, nil
}

// logWriter is the log of a library, by lines.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("ttrpc", "message", string(p))
	return len(p), nil
}
