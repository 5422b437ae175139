package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/devicefilter"
	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
)

// process is one process of a container that the host knows by name.
type process struct {
	pid int
	io  *stdio

	exited  chan struct{} // closed when status is set
	drained chan struct{} // closed when the output is on its streams as well
	claimed chan struct{} // closed when somebody answers for its end
	claim   sync.Once
	status  ended
	oom     bool
}

// container is a container and its processes. Its first process is the one
// with the empty name.
type container struct {
	id         string
	spec       *specs.Spec
	namespaces int
	cgroup     *cgroup
	pidfd      *os.File // of the first process
	ns         birthplace

	init *process

	mu    sync.Mutex
	child *child // until started
	execs map[string]*process
	gone  []string // names of ended execs, the oldest first
}

// maxGone bounds the ended processes whose status is kept for a late Wait.
const maxGone = 1024

// create sets a container up.
func (a *Agent) create(req *protocol.CreateRequest) (_ *container, warnings []string, err error) {
	spec := new(specs.Spec)
	if err := json.Unmarshal(req.Spec, spec); err != nil {
		return nil, nil, initproc.Invalid("config.json: %v", err)
	}
	namespaces, err := initproc.CheckSpec(spec)
	if err != nil {
		return nil, nil, err
	}
	io, err := a.newStdio(req.Stdio, spec.Process)
	if err != nil {
		return nil, nil, err
	}
	c := &container{id: req.ContainerId, spec: spec, namespaces: namespaces, execs: make(map[string]*process)}
	defer func() {
		if err != nil {
			io.discard()
			c.release()
		}
	}()
	child, err := a.takeChild(namespaces, spec.Linux)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			a.abandon(child)
		}
	}()
	if c.cgroup, err = newCgroup(a.opts.CgroupRoot, c.id); err != nil {
		return nil, nil, err
	}
	if err := c.cgroup.add(child.pid); err != nil {
		return nil, nil, err
	}
	if spec.Linux != nil {
		if err := c.cgroup.apply(spec.Linux.Resources); err != nil {
			return nil, nil, err
		}
	}
	var devices []specs.LinuxDeviceCgroup
	if spec.Linux != nil && spec.Linux.Resources != nil {
		devices = spec.Linux.Resources.Devices
	}
	if err := devicefilter.Attach(c.cgroup.dir, devices); err != nil {
		return nil, nil, err
	}
	cfg := &initproc.Config{
		Spec:       spec,
		Process:    spec.Process,
		Rootfs:     a.opts.Rootfs(req.RootfsTag),
		Namespaces: namespaces,
	}
	cfg.Width, cfg.Height = terminalSize(req.Stdio.GetSize(), spec.Process)
	cfg.PlainNewlines = req.Stdio.GetPlainNewlines()
	fds := io.childFDs()
	if namespaces&unix.CLONE_NEWUSER != 0 {
		sys, done, err := a.assist(child, cfg, fds)
		if err != nil {
			return nil, nil, err
		}
		defer done()
		fds = append([]int{sys}, fds...)
	}
	report, master, err := child.prepare(cfg, fds...)
	if err != nil {
		return nil, nil, err
	}
	io.ends[terminal] = master
	if err := c.open(child.pid); err != nil {
		return nil, nil, err
	}
	c.child = child
	c.init = a.newProcess(child, io, c)
	io.run(master)
	return c, report.Warnings, nil
}

// terminalSize is the first size of a terminal.
func terminalSize(size *protocol.Size, p *specs.Process) (width, height uint16) {
	w, h := uint64(size.GetWidth()), uint64(size.GetHeight())
	if (w == 0 || h == 0) && p.ConsoleSize != nil {
		w, h = uint64(p.ConsoleSize.Width), uint64(p.ConsoleSize.Height)
	}
	return uint16(min(w, 0xffff)), uint16(min(h, 0xffff))
}

// open takes hold of the first process and its namespaces, by which later
// processes join.
func (c *container) open(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return c.ns.open(pid, c.namespaces)
}

// release gives up what a container holds that has no process.
func (c *container) release() {
	if c.cgroup != nil {
		c.cgroup.remove()
	}
	if c.pidfd != nil {
		c.pidfd.Close()
	}
	c.ns.close()
}

// newProcess watches a child as a process of its own right. c is the container
// whose first process it is, nil for others.
func (a *Agent) newProcess(ch *child, io *stdio, c *container) *process {
	p := &process{pid: ch.pid, io: io, exited: make(chan struct{}), drained: make(chan struct{}), claimed: make(chan struct{})}
	go func() {
		status := <-ch.done
		if c != nil {
			c.end()
			p.oom = c.cgroup.oomKilled()
		}
		p.status = status
		close(p.exited)
		<-io.finish()
		close(p.drained)
	}()
	return p
}

// end kills what the first process left behind; in a PID namespace the kernel
// has done so. Then it has the guest write back what is dirty, as the VM may
// end any moment now.
func (c *container) end() {
	if c.ns.pid == nil {
		c.cgroup.kill()
	}
	unix.Sync()
}

// start lets the first process call execve.
func (c *container) start(state []byte) error {
	c.mu.Lock()
	child := c.child
	c.child = nil
	c.mu.Unlock()
	if child == nil {
		return failf(protocol.Failure_BAD_STATE, "container %s is started already", c.id)
	}
	return child.release(state)
}

// exec runs one more process.
func (a *Agent) exec(c *container, req *protocol.ExecRequest) (p *process, warnings []string, err error) {
	spec := new(specs.Process)
	if err := json.Unmarshal(req.Process, spec); err != nil {
		return nil, nil, initproc.Invalid("process: %v", err)
	}
	inherit(spec, c.spec.Process)
	if err := initproc.CheckProcess(spec); err != nil {
		return nil, nil, err
	}
	select {
	case <-c.init.exited:
		return nil, nil, failf(protocol.Failure_BAD_STATE, "container %s is not running", c.id)
	default:
	}
	if err := c.reserve(req.ExecId); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			c.mu.Lock()
			delete(c.execs, req.ExecId)
			c.mu.Unlock()
		}
	}()
	io, err := a.newStdio(req.Stdio, spec)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			io.discard()
		}
	}()
	child, err := a.spawn(initproc.ExecArg, &syscall.SysProcAttr{}, &c.ns)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			a.abandon(child)
		}
	}()
	if err := c.cgroup.join(child.pid, req.Cgroup, c.init.pid); err != nil {
		return nil, nil, err
	}
	if err := child.waitIdle(); err != nil {
		return nil, nil, child.lost(err)
	}
	cfg := &initproc.Config{
		Spec:       &specs.Spec{},
		Process:    spec,
		Namespaces: c.namespaces,
	}
	if linux := c.spec.Linux; linux != nil {
		cfg.Spec.Linux = &specs.Linux{Seccomp: linux.Seccomp, Personality: linux.Personality}
	}
	cfg.Width, cfg.Height = terminalSize(req.Stdio.GetSize(), spec)
	cfg.PlainNewlines = req.Stdio.GetPlainNewlines()
	if c.ns.user != nil {
		if err := initproc.Assist(child.pid, cfg, c.spec.Linux, io.childFDs()); err != nil {
			return nil, nil, err
		}
	}
	fds := append([]int{int(c.pidfd.Fd())}, io.childFDs()...)
	report, master, err := child.prepare(cfg, fds...)
	if err != nil {
		return nil, nil, err
	}
	io.ends[terminal] = master
	if err := child.release(nil); err != nil {
		return nil, nil, err
	}
	p = a.newProcess(child, io, nil)
	io.run(master)
	c.mu.Lock()
	c.execs[req.ExecId] = p
	c.mu.Unlock()
	go c.forget(req.ExecId, p)
	if req.Kill {
		go a.killUnclaimed(p)
	}
	return p, report.Warnings, nil
}

// claimTimeout is generous to whoever has asked for a process and was stopped.
const claimTimeout = 10 * time.Second

// killUnclaimed kills a process that nobody claims in time.
func (a *Agent) killUnclaimed(p *process) {
	timer := time.NewTimer(a.opts.ClaimTimeout)
	defer timer.Stop()
	select {
	case <-p.claimed:
	case <-p.exited:
	case <-timer.C:
		if err := a.signal(p, unix.SIGKILL); err != nil {
			a.log.Debug("kill an unclaimed process", "pid", p.pid, "error", err)
		}
	}
}

// inherit fills in what a process that does not say has from the container's
// first one, as with other runtimes.
func inherit(p, first *specs.Process) {
	if p.Capabilities == nil {
		p.Capabilities = first.Capabilities
	}
	if len(p.Rlimits) == 0 {
		p.Rlimits = first.Rlimits
	}
	if p.User.Umask == nil {
		p.User.Umask = first.User.Umask
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = first.OOMScoreAdj
	}
	if p.Scheduler == nil {
		p.Scheduler = first.Scheduler
	}
	if p.IOPriority == nil {
		p.IOPriority = first.IOPriority
	}
}

// reserve takes a name for a process to come.
func (c *container) reserve(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, exists := c.execs[execID]; exists {
		return failf(protocol.Failure_ALREADY_EXISTS, "process %s exists in container %s", execID, c.id)
	}
	c.execs[execID] = nil
	return nil
}

// forget drops the oldest ended processes once there are too many.
func (c *container) forget(execID string, p *process) {
	<-p.drained
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = append(c.gone, execID)
	for len(c.gone) > maxGone {
		delete(c.execs, c.gone[0])
		c.gone = c.gone[1:]
	}
}

// process finds a process by name.
func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.execs[execID]
	if p == nil {
		return nil, failf(protocol.Failure_NOT_FOUND, "no process %s in container %s", execID, c.id)
	}
	return p, nil
}

// signal sends a signal to a process that has not ended.
func (a *Agent) signal(p *process, sig unix.Signal) error {
	if err := a.reaper.signal(p.pid, sig); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return failf(protocol.Failure_BAD_STATE, "the process has ended")
		}
		return fmt.Errorf("signal %d: %w", sig, err)
	}
	return nil
}

// signalAll sends a signal to every process of the container.
func (c *container) signalAll(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return c.cgroup.kill()
	}
	pids, err := c.cgroup.pids()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// wait waits for the end of a process.
func (p *process) wait(ctx context.Context, undrained bool) (*protocol.WaitResponse, error) {
	done := p.drained
	if undrained {
		done = p.exited
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	resp := &protocol.WaitResponse{
		ExitedUnixNano: p.status.at.UnixNano(),
		OomKilled:      p.oom,
	}
	if status := p.status.status; status.Signaled() {
		resp.Signal = uint32(status.Signal())
		resp.CoreDumped = status.CoreDump()
	} else {
		resp.ExitCode = uint32(status.ExitStatus())
	}
	if !undrained {
		resp.StdoutBytes = p.io.written(stdout)
		resp.StderrBytes = p.io.written(stderr)
		resp.TerminalBytes = p.io.written(terminal)
	}
	return resp, nil
}

// killTimeout bounds the wait for killed processes.
const killTimeout = 5 * time.Second
