// Package client is the host's side of the protocol with the agent in a guest.
//
// Everything that comes from the guest is hostile input: frames are checked
// before they reach the RPC library, numbers are range-checked, texts are cut
// and made printable, and every call but Wait has a deadline.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"runv.dev/runv/agent/protocol"
)

// callTimeout bounds a call whose context has no deadline.
const callTimeout = 2 * time.Minute

// A Dialer opens a connection to a vsock port of the guest.
type Dialer func(ctx context.Context, port uint32) (net.Conn, error)

// Client is a control connection to an agent. Its methods may be called from
// several goroutines. A failed request is an *Error; a connection that is
// gone, or was broken off because the agent broke the protocol, is
// ErrAgentLost.
type Client struct {
	dial  Dialer
	rpc   *ttrpc.Client
	agent protocol.AgentService
	guard *guard

	done      chan struct{}
	closeOnce sync.Once
}

// quiet silences the RPC library's own log, which writes to standard error what
// a guest can provoke.
var quiet = sync.OnceFunc(func() { log.L.Logger.SetOutput(io.Discard) })

// New connects to the agent behind dial.
func New(ctx context.Context, dial Dialer) (*Client, error) {
	quiet()
	conn, err := dial(ctx, protocol.ControlPort)
	if err != nil {
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	c := &Client{dial: dial, guard: newGuard(conn), done: make(chan struct{})}
	c.rpc = ttrpc.NewClient(c.guard, ttrpc.WithOnClose(func() {
		c.closeOnce.Do(func() { close(c.done) })
	}))
	c.agent = protocol.NewAgentClient(c.rpc)
	return c, nil
}

// Done is closed when the connection is gone, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection; calls under way return ErrAgentLost. Processes in
// the guest go on.
func (c *Client) Close() error { return c.rpc.Close() }

// call runs one request and translates its failure.
func call[Req, Resp any](ctx context.Context, c *Client, op string,
	method func(context.Context, *Req) (*Resp, error), req *Req,
) (*Resp, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	return unboundedCall(ctx, c, op, method, req)
}

func unboundedCall[Req, Resp any](ctx context.Context, c *Client, op string,
	method func(context.Context, *Req) (*Resp, error), req *Req,
) (*Resp, error) {
	resp, err := method(ctx, req)
	if err != nil {
		return nil, c.translate(ctx, op, err)
	}
	return resp, nil
}

// Ready returns when the agent is idle, with nothing under way: the moment to
// take a snapshot of the guest, once this client is closed.
func (c *Client) Ready(ctx context.Context) error {
	resp, err := call(ctx, c, "ready", c.agent.Ready, &protocol.ReadyRequest{})
	if err != nil {
		return err
	}
	if resp.ProtocolVersion != protocol.Version {
		return fmt.Errorf("the agent speaks protocol version %d, this runtime %d", resp.ProtocolVersion, protocol.Version)
	}
	return nil
}

// Clone is what makes a guest started from a template unique.
type Clone struct {
	Time    time.Time // the wall clock to set; zero leaves it
	Entropy []byte    // mixed into the guest's random generator; at most 4 KiB
}

// CreateOptions describe a container.
type CreateOptions struct {
	ID        string
	Spec      []byte // config.json as protocol.CreateRequest wants it
	RootfsTag string // tag of the virtio-fs share with the root file system
	Stdio     *Stdio // nil: /dev/null
	Clone     *Clone // nil: nothing to do

	Network *protocol.Network // what the guest is to look like; nil: as it is
}

// Created is a process that Create or Exec set up.
type Created struct {
	PID      int      // in the agent's PID namespace
	Warnings []string // what was passed over as the specification allows
}

func checkCreated(pid uint32, warnings []string) (Created, error) {
	if pid == 0 || pid > math.MaxInt32 {
		return Created{}, fmt.Errorf("%w: pid %d", ErrProtocol, pid)
	}
	return Created{PID: int(pid), Warnings: checkWarnings(warnings)}, nil
}

func checkWarnings(warnings []string) (checked []string) {
	for _, w := range warnings[:min(len(warnings), maxWarnings)] {
		checked = append(checked, printable(w))
	}
	return checked
}

// maxWarnings bounds the warnings passed on.
const maxWarnings = 100

// Create sets a container up. Nothing of the container's own has run yet.
func (c *Client) Create(ctx context.Context, o CreateOptions) (Created, error) {
	if err := protocol.CheckID(o.ID); err != nil {
		return Created{}, err
	}
	req := &protocol.CreateRequest{
		ContainerId: o.ID,
		Spec:        o.Spec,
		RootfsTag:   o.RootfsTag,
		Stdio:       o.Stdio.message(),
		Network:     o.Network,
		Clone:       o.Clone.message(),
	}
	resp, err := call(ctx, c, "create", c.agent.Create, req)
	if err != nil {
		return Created{}, err
	}
	return checkCreated(resp.Pid, resp.Warnings)
}

// SetNetwork makes the guest look like a network namespace. What it cannot show
// is in warnings.
func (c *Client) SetNetwork(ctx context.Context, n *protocol.Network) (warnings []string, err error) {
	resp, err := call(ctx, c, "set network", c.agent.SetNetwork, &protocol.SetNetworkRequest{Network: n})
	if err != nil {
		return nil, err
	}
	return checkWarnings(resp.Warnings), nil
}

// Start runs the container's process. state is the OCI state (JSON) for
// startContainer hooks, nil if there are none.
func (c *Client) Start(ctx context.Context, id string, state []byte) error {
	_, err := call(ctx, c, "start", c.agent.Start, &protocol.StartRequest{ContainerId: id, State: state})
	return err
}

// ExecOptions describe one more process of a container.
type ExecOptions struct {
	ContainerID string
	ExecID      string // new, unique in the container
	Process     []byte // OCI process object, JSON
	Stdio       *Stdio // nil: /dev/null
	Cgroup      string // below the container's own, or that ("/"); usually empty
	// OrKill has the agent kill the process unless WaitOrKill follows.
	OrKill bool
}

// Exec runs a process in a container.
func (c *Client) Exec(ctx context.Context, o ExecOptions) (Created, error) {
	if err := errors.Join(protocol.CheckID(o.ContainerID), protocol.CheckID(o.ExecID)); err != nil {
		return Created{}, err
	}
	resp, err := call(ctx, c, "exec", c.agent.Exec, &protocol.ExecRequest{
		ContainerId: o.ContainerID,
		ExecId:      o.ExecID,
		Process:     o.Process,
		Stdio:       o.Stdio.message(),
		Cgroup:      o.Cgroup,
		Kill:        o.OrKill,
	})
	if err != nil {
		return Created{}, err
	}
	return checkCreated(resp.Pid, resp.Warnings)
}

// Delete kills what is left of a container and forgets it.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := call(ctx, c, "delete", c.agent.Delete, &protocol.DeleteRequest{ContainerId: id})
	return err
}

// Signal sends sig to a process: the container's init if execID is empty.
func (c *Client) Signal(ctx context.Context, id, execID string, sig syscall.Signal) error {
	_, err := call(ctx, c, "signal", c.agent.Signal,
		&protocol.SignalRequest{ContainerId: id, ExecId: execID, Signal: uint32(sig)})
	return err
}

// SignalAll sends sig to every process of the container.
func (c *Client) SignalAll(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := call(ctx, c, "signal", c.agent.Signal,
		&protocol.SignalRequest{ContainerId: id, Signal: uint32(sig), All: true})
	return err
}

// Exit tells how a process ended.
type Exit struct {
	Code       int            // 0 to 255; 0 if a signal ended it
	Signal     syscall.Signal // 0 if it exited
	CoreDumped bool
	OOMKilled  bool // the guest killed a process of the container for lack of memory
	Time       time.Time

	// What the process and its children had written when it ended; 0 from
	// WaitUndrained. A stream is complete when so many bytes came, or at EOF.
	StdoutBytes, StderrBytes, TerminalBytes uint64
}

// Status is the exit status as a shell shows it: 128+n for signal n.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Wait returns when the process has ended (the container's init if execID is
// empty) and its output is on the streams. Only ctx bounds it.
func (c *Client) Wait(ctx context.Context, id, execID string) (Exit, error) {
	return c.wait(ctx, &protocol.WaitRequest{ContainerId: id, ExecId: execID})
}

// WaitUndrained is Wait without the wait for output: for a caller that cannot
// trust its readers to go on.
func (c *Client) WaitUndrained(ctx context.Context, id, execID string) (Exit, error) {
	return c.wait(ctx, &protocol.WaitRequest{ContainerId: id, ExecId: execID, Undrained: true})
}

// WaitOrKill is WaitUndrained, and the agent kills the process should this
// connection end before it.
func (c *Client) WaitOrKill(ctx context.Context, id, execID string) (Exit, error) {
	return c.wait(ctx, &protocol.WaitRequest{ContainerId: id, ExecId: execID, Undrained: true, Kill: true})
}

func (c *Client) wait(ctx context.Context, req *protocol.WaitRequest) (Exit, error) {
	resp, err := unboundedCall(ctx, c, "wait", c.agent.Wait, req)
	if err != nil {
		return Exit{}, err
	}
	return checkExit(resp)
}

// maxSignal is the highest signal number of Linux.
const maxSignal = 64

func checkExit(resp *protocol.WaitResponse) (Exit, error) {
	switch {
	case resp.ExitCode > 255:
		return Exit{}, fmt.Errorf("wait: %w: exit code %d", ErrProtocol, resp.ExitCode)
	case resp.Signal > maxSignal:
		return Exit{}, fmt.Errorf("wait: %w: signal %d", ErrProtocol, resp.Signal)
	case resp.Signal != 0 && resp.ExitCode != 0:
		return Exit{}, fmt.Errorf("wait: %w: both exit code %d and signal %d", ErrProtocol, resp.ExitCode, resp.Signal)
	}
	return Exit{
		Code:          int(resp.ExitCode),
		Signal:        syscall.Signal(resp.Signal),
		CoreDumped:    resp.CoreDumped,
		OOMKilled:     resp.OomKilled,
		Time:          time.Unix(0, resp.ExitedUnixNano),
		StdoutBytes:   resp.StdoutBytes,
		StderrBytes:   resp.StderrBytes,
		TerminalBytes: resp.TerminalBytes,
	}, nil
}

// Resize sets the size of a process's terminal, in characters.
func (c *Client) Resize(ctx context.Context, id, execID string, width, height uint16) error {
	_, err := call(ctx, c, "resize", c.agent.Resize, &protocol.ResizeRequest{
		ContainerId: id,
		ExecId:      execID,
		Size:        &protocol.Size{Width: uint32(width), Height: uint32(height)},
	})
	return err
}

// Pause freezes the processes of a container.
func (c *Client) Pause(ctx context.Context, id string) error {
	_, err := call(ctx, c, "pause", c.agent.Pause, &protocol.PauseRequest{ContainerId: id})
	return err
}

// Resume thaws what Pause froze.
func (c *Client) Resume(ctx context.Context, id string) error {
	_, err := call(ctx, c, "resume", c.agent.Resume, &protocol.ResumeRequest{ContainerId: id})
	return err
}

// Update changes the limits the guest itself enforces; resources is the OCI
// linux.resources object as JSON.
func (c *Client) Update(ctx context.Context, id string, resources []byte) error {
	_, err := call(ctx, c, "update", c.agent.Update, &protocol.UpdateRequest{ContainerId: id, Resources: resources})
	return err
}

// SetTime sets the guest's wall clock.
func (c *Client) SetTime(ctx context.Context, t time.Time) error {
	_, err := call(ctx, c, "set time", c.agent.SetTime, &protocol.SetTimeRequest{UnixNano: t.UnixNano()})
	return err
}

// AddEntropy mixes at most 4 KiB into the guest's random generator.
func (c *Client) AddEntropy(ctx context.Context, p []byte) error {
	_, err := call(ctx, c, "add entropy", c.agent.AddEntropy, &protocol.AddEntropyRequest{Data: p})
	return err
}

// Shutdown kills what runs, has the guest write back what is dirty, and resets
// it. The VM's end is the confirmation.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := call(ctx, c, "shutdown", c.agent.Shutdown, &protocol.ShutdownRequest{})
	return err
}
