// Package vmprocess is the container process: it becomes a virtual machine, has
// the agent in the guest create and start the container, carries its stdio and
// signals, and ends with its exit status.
//
// Package sandbox describes how the runtime starts it and talks to it.
package vmprocess

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/attach"
	"runv.dev/runv/internal/logging"
	"runv.dev/runv/internal/sandbox"
)

// Exit statuses that are not the container's.
const (
	// StatusRuntime: the container was not created.
	StatusRuntime = 1
	// StatusGuestDied: the guest ended without telling how the container did.
	StatusGuestDied = 255
)

// consoleLines is how much of the guest's console an error shows.
const consoleLines = 12

// process is the state of a VM process.
type process struct {
	in      *sandbox.Inherited
	boot    *sandbox.Bootstrap
	log     *slog.Logger
	console *ring
	begun   time.Time

	// cold is why the guest was booted where a template was wanted.
	cold *sandbox.ColdBoot
}

// Main runs the VM process and has its exit status.
func Main() int {
	begun := time.Now()
	signals := attach.CatchSignals()
	useSmallPages()
	in, err := sandbox.Inherit()
	if err != nil {
		fmt.Fprintf(os.Stderr, "runv: %v\n", err)
		return StatusRuntime
	}
	boot, err := in.Sync.Bootstrap()
	if err != nil {
		// The runtime died before it had said anything.
		return StatusRuntime
	}
	p := &process{in: in, boot: boot, console: &ring{max: 64 << 10}, begun: begun}
	p.log = p.logger()
	return p.run(signals)
}

// logger logs to the runtime's log file. Without one, stderr is the container's
// and gets errors only.
func (p *process) logger() *slog.Logger {
	level := slog.LevelInfo
	w := p.in.Log
	if w == nil {
		w, level = os.Stderr, slog.LevelError
	}
	if p.boot.Debug {
		level = slog.LevelDebug
	}
	return logging.New(w, p.boot.LogJSON, level)
}

// trace logs a stage of the start and the time since the process began.
func (p *process) trace(stage string) {
	p.log.Debug("stage", "stage", stage, "ms", float64(time.Since(p.begun).Microseconds())/1000)
}

func (p *process) run(signals <-chan os.Signal) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)

	// The runtime's end of the sync socket, and what it says on it.
	abandoned := make(chan struct{})
	start := make(chan struct{}, 1)
	go func() {
		defer close(abandoned)
		p.in.Sync.Abandoned(func() {
			select {
			case start <- struct{}{}:
			default:
			}
		})
	}()

	assembling, stop := attach.Interruptible(ctx, context.Background(), signals, abandoned)
	m, err := p.assemble(assembling)
	stop()
	if err != nil {
		return p.failed(err)
	}
	c, err := p.create(ctx, m, signals, abandoned)
	if err != nil {
		return p.failed(err)
	}
	if err := p.in.Sync.Created(p.cold); err != nil {
		// Nobody knows of this container.
		return StatusRuntime
	}
	p.trace("created")
	if p.boot.Start {
		start <- struct{}{} // nobody else has sent anything
	}
	requests, finish := context.WithCancel(ctx)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.startOnRequest(requests, c, start)
	}()
	status := c.wait(signals)
	// Whoever asked for the start hears of it before this process ends.
	finish()
	<-answered
	return status
}

// failed reports to the runtime, which tells the user, why there is no
// container.
func (p *process) failed(err error) int {
	status := StatusRuntime
	if s, ok := client.ExitStatus(err); ok {
		status = s
	}
	p.log.Debug("create failed", "err", err)
	if err := p.in.Sync.Failed(err, status); err != nil {
		p.log.Error("report to the runtime", "err", err)
	}
	return status
}

// startOnRequest starts the container when the runtime that created it asks, if
// it does before ctx ends; a start by another process comes through agent.sock.
func (p *process) startOnRequest(ctx context.Context, c *container, start <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-start:
	}
	var err error
	if c.machine.saved == nil { // else it was started long ago
		var state []byte
		if state, err = json.Marshal(p.state(specs.StateCreated)); err == nil {
			err = c.client.Start(context.WithoutCancel(ctx), p.boot.ID, state)
		}
	}
	if err == nil {
		err = p.in.Sync.Started()
		p.trace("started")
	} else {
		status := StatusRuntime
		if s, ok := client.ExitStatus(err); ok {
			status = s
		}
		err = p.in.Sync.Failed(err, status)
	}
	if err != nil {
		p.log.Debug("report to the runtime", "err", err)
	}
}

// container is the container in the guest.
type container struct {
	*process
	machine *machine
	client  *client.Client
	init    *attach.Process
}

// agentTimeout bounds how long a guest may take from its first instruction until
// its agent reports, as patience counts it. It is generous: a host may be slow,
// and a guest that fails to boot usually says so by a panic.
var agentTimeout = 2 * time.Minute

// create waits for the agent and has it create the container. What can end this
// early: the guest's end, a signal, the runtime's end, the time.
func (p *process) create(ctx context.Context, m *machine, signals <-chan os.Signal, abandoned <-chan struct{}) (*container, error) {
	ctx, stop := attach.Interruptible(ctx, m.guest, signals, abandoned)
	defer stop()
	c, err := p.createIn(ctx, m)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, client.ErrAgentLost) {
		err = p.lost(m, err)
	}
	return c, err
}

// lost waits a moment for the reason why the agent is gone.
func (p *process) lost(m *machine, err error) error {
	select {
	case <-m.guest.Done():
		return context.Cause(m.guest)
	case <-time.After(lostTimeout):
		return fmt.Errorf("%w%s", err, p.lastLines())
	}
}

// lostTimeout is how long a guest without agent may go on.
const lostTimeout = 2 * time.Second

func (p *process) createIn(ctx context.Context, m *machine) (*container, error) {
	begun := time.Now()
	late := errors.New("the guest's agent did not report")
	ready, cancel := patience(ctx, agentTimeout, late, processorTime)
	defer cancel()
	if err := m.waitReady(ready); err != nil {
		if cause := context.Cause(ready); cause != nil {
			err = cause
		}
		if err == late {
			err = fmt.Errorf("%w within %v%s", late, time.Since(begun).Round(time.Second), p.lastLines())
		}
		return nil, err
	}
	p.trace("agent ready")
	spec, err := p.guestSpec()
	if err != nil {
		return nil, err
	}
	agent, err := client.New(ctx, m.dial)
	if err != nil {
		return nil, err
	}
	c := &container{process: p, machine: m, client: agent}
	c.init, err = attach.New(attach.Options{
		Client: agent, ID: p.boot.ID, Terminal: p.boot.Plan.Terminal, Log: p.log, Guest: m.guest,
	})
	if err != nil {
		return nil, errors.Join(err, agent.Close())
	}
	if m.saved != nil {
		if err := p.attach(ctx, m, c); err != nil {
			return nil, errors.Join(err, agent.Close())
		}
		return c, nil
	}
	network, err := m.mirror.Read()
	if err != nil {
		return nil, errors.Join(err, agent.Close())
	}
	// The streams and the request travel at the same time.
	opened := make(chan error, 1)
	go func() { opened <- agent.OpenStdio(ctx, c.init.Streams()) }()
	created, err := agent.Create(ctx, client.CreateOptions{
		ID:        p.boot.ID,
		Spec:      spec,
		RootfsTag: rootTag,
		Stdio:     c.init.Streams(),
		Network:   network,
		Clone:     newClone(m.cloned),
	})
	if err = errors.Join(err, <-opened); err != nil {
		return nil, errors.Join(err, agent.Close())
	}
	c.warn(created.Warnings)
	go c.followNetwork(network)
	c.init.Start()
	m.container.Store(c)
	return c, nil
}

// cloneEntropy is how many random bytes a clone gets before anything runs in it:
// as many as its kernel's generator holds.
const cloneEntropy = 64

// newClone is what makes a guest one of its kind. One that has booted needs the
// time only.
func newClone(cloned bool) *client.Clone {
	c := &client.Clone{Time: time.Now()}
	if cloned {
		c.Entropy = make([]byte, cloneEntropy)
		rand.Read(c.Entropy)
	}
	return c
}

// wait waits for the container's end and has its exit status.
func (c *container) wait(signals <-chan os.Signal) int {
	exit, err := c.init.Wait(signals)
	if err != nil {
		if c.machine.guest.Err() == nil {
			err = c.lost(c.machine, err)
		}
		return c.died(err)
	}
	c.trace("exited")
	if exit.OOMKilled {
		c.log.Warn("the guest killed a process of the container for lack of memory")
	}
	if err := c.init.Drain(signals); err != nil {
		c.log.Warn("drain", "err", err)
	}
	if exit.OOMKilled && exit.Signal == unix.SIGKILL {
		c.outOfMemory()
	}
	return exit.Status()
}

// died reports a guest that ended without a word about the container.
func (c *container) died(err error) int {
	if c.in.Log != nil {
		c.log.Error(err.Error())
	}
	fmt.Fprintf(os.Stderr, "runv: %v\n", err)
	return StatusGuestDied
}

// lastLines has the end of the guest's console for an error's text.
func (p *process) lastLines() string {
	lines := p.console.epitaph(consoleLines)
	if len(lines) == 0 {
		return "; its console is empty"
	}
	return "; its console ends with: " + strings.Join(lines, " | ")
}
