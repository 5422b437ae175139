package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
)

// service is the agent's side of the protocol.
type service struct {
	agent *Agent
}

var _ protocol.AgentService = (*service)(nil)

const maxSignal = 64

// maxEntropy bounds what one request adds to the random pool.
const maxEntropy = 4096

// container finds a container that was created.
func (s *service) container(id string) (*container, error) {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	c := s.agent.containers[id]
	if c == nil {
		return nil, failf(protocol.Failure_NOT_FOUND, "no container %.64q", id)
	}
	return c, nil
}

func (s *service) process(id, execID string) (*process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	return c.process(execID)
}

func (s *service) Ready(context.Context, *protocol.ReadyRequest) (*protocol.ReadyResponse, error) {
	a := s.agent
	a.mu.Lock()
	used := a.idle == nil
	a.mu.Unlock()
	if used {
		a.prestart()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.containers) > 0 {
		return nil, statusOf(failf(protocol.Failure_BAD_STATE, "there is a container"))
	}
	if a.idle != nil {
		if err := a.idle.waitIdle(); err != nil {
			return nil, statusOf(a.idle.lost(err))
		}
	}
	return &protocol.ReadyResponse{ProtocolVersion: protocol.Version}, nil
}

func (s *service) Create(_ context.Context, req *protocol.CreateRequest) (*protocol.CreateResponse, error) {
	c, warnings, err := s.create(req)
	if err != nil {
		return nil, statusOf(err)
	}
	return &protocol.CreateResponse{Pid: uint32(c.init.pid), Warnings: warnings}, nil
}

func (s *service) create(req *protocol.CreateRequest) (*container, []string, error) {
	a := s.agent
	if err := protocol.CheckID(req.ContainerId); err != nil {
		return nil, nil, initproc.Invalid("%v", err)
	}
	if err := uniquify(req.Clone); err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	_, exists := a.containers[req.ContainerId]
	if !exists {
		a.containers[req.ContainerId] = nil
	}
	a.mu.Unlock()
	if exists {
		return nil, nil, failf(protocol.Failure_ALREADY_EXISTS, "container %s exists", req.ContainerId)
	}
	// Before the container's sysctls, which may be about these devices.
	var c *container
	var differences, warnings []string
	var err error
	if req.Network != nil {
		differences, err = a.setNetwork(req.Network)
	}
	if err == nil {
		c, warnings, err = a.create(req)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		delete(a.containers, req.ContainerId)
		return nil, nil, err
	}
	a.containers[c.id] = c
	return c, append(differences, warnings...), nil
}

// uniquify gives a guest the time, and randomness of its own.
func uniquify(clone *protocol.Clone) error {
	if clone == nil {
		return nil
	}
	if clone.TimeUnixNano != 0 {
		if err := setTime(clone.TimeUnixNano); err != nil {
			return err
		}
	}
	if len(clone.Entropy) > 0 {
		return addEntropy(clone.Entropy)
	}
	return nil
}

func (s *service) SetNetwork(_ context.Context, req *protocol.SetNetworkRequest) (*protocol.SetNetworkResponse, error) {
	if req.Network == nil {
		return nil, statusOf(initproc.Invalid("no network"))
	}
	warnings, err := s.agent.setNetwork(req.Network)
	return &protocol.SetNetworkResponse{Warnings: warnings}, statusOf(err)
}

// setNetwork makes the guest look like the container's network namespace.
func (a *Agent) setNetwork(n *protocol.Network) (warnings []string, err error) {
	if err := n.Check(); err != nil {
		return nil, initproc.Invalid("%v", err)
	}
	a.network.Lock()
	defer a.network.Unlock()
	return a.mirror.Set(n)
}

func (s *service) Start(ctx context.Context, req *protocol.StartRequest) (*protocol.StartResponse, error) {
	c, err := s.container(req.ContainerId)
	if err == nil {
		err = c.init.io.await(ctx)
	}
	if err == nil {
		if len(req.State) > 0 && !json.Valid(req.State) {
			err = initproc.Invalid("the state is no JSON")
		} else {
			err = c.start(req.State)
		}
	}
	return &protocol.StartResponse{}, statusOf(err)
}

func (s *service) Exec(_ context.Context, req *protocol.ExecRequest) (*protocol.ExecResponse, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, statusOf(err)
	}
	if err := protocol.CheckID(req.ExecId); err != nil {
		return nil, statusOf(initproc.Invalid("%v", err))
	}
	p, warnings, err := s.agent.exec(c, req)
	if err != nil {
		return nil, statusOf(err)
	}
	return &protocol.ExecResponse{Pid: uint32(p.pid), Warnings: warnings}, nil
}

func (s *service) Delete(ctx context.Context, req *protocol.DeleteRequest) (*protocol.DeleteResponse, error) {
	return &protocol.DeleteResponse{}, statusOf(s.delete(ctx, req.ContainerId))
}

func (s *service) delete(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if err := c.cgroup.kill(); err != nil {
		return err
	}
	select {
	case <-c.init.exited:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(killTimeout):
		return fmt.Errorf("container %s does not end", id)
	}
	s.agent.mu.Lock()
	delete(s.agent.containers, id)
	s.agent.mu.Unlock()
	c.release()
	return nil
}

func (s *service) Signal(_ context.Context, req *protocol.SignalRequest) (*protocol.SignalResponse, error) {
	return &protocol.SignalResponse{}, statusOf(s.signal(req))
}

func (s *service) signal(req *protocol.SignalRequest) error {
	if req.Signal > maxSignal {
		return initproc.Invalid("signal %d does not exist", req.Signal)
	}
	sig := unix.Signal(req.Signal)
	if !req.All {
		p, err := s.process(req.ContainerId, req.ExecId)
		if err != nil {
			return err
		}
		return s.agent.signal(p, sig)
	}
	if req.ExecId != "" {
		return initproc.Invalid("a signal to all names no process")
	}
	c, err := s.container(req.ContainerId)
	if err != nil {
		return err
	}
	return c.signalAll(sig)
}

func (s *service) Wait(ctx context.Context, req *protocol.WaitRequest) (*protocol.WaitResponse, error) {
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, statusOf(err)
	}
	if req.Kill {
		p.claim.Do(func() { close(p.claimed) })
	}
	resp, err := p.wait(ctx, req.Undrained)
	if err != nil && req.Kill {
		// Nobody is left to hear of the process's end, or to end it.
		if err := s.agent.signal(p, unix.SIGKILL); err != nil {
			s.agent.log.Debug("kill", "process", req.ExecId, "error", err)
		}
	}
	return resp, statusOf(err)
}

func (s *service) Resize(_ context.Context, req *protocol.ResizeRequest) (*protocol.ResizeResponse, error) {
	p, err := s.process(req.ContainerId, req.ExecId)
	if err == nil {
		w, h := req.GetSize().GetWidth(), req.GetSize().GetHeight()
		if w > 0xffff || h > 0xffff {
			err = initproc.Invalid("terminal size %d x %d", w, h)
		} else {
			err = p.io.resize(uint16(w), uint16(h))
		}
	}
	return &protocol.ResizeResponse{}, statusOf(err)
}

func (s *service) Pause(ctx context.Context, req *protocol.PauseRequest) (*protocol.PauseResponse, error) {
	return &protocol.PauseResponse{}, statusOf(s.freeze(ctx, req.ContainerId, true))
}

func (s *service) Resume(ctx context.Context, req *protocol.ResumeRequest) (*protocol.ResumeResponse, error) {
	return &protocol.ResumeResponse{}, statusOf(s.freeze(ctx, req.ContainerId, false))
}

func (s *service) freeze(ctx context.Context, id string, on bool) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	return c.cgroup.freeze(ctx, on)
}

func (s *service) Update(_ context.Context, req *protocol.UpdateRequest) (*protocol.UpdateResponse, error) {
	c, err := s.container(req.ContainerId)
	if err == nil {
		resources := new(specs.LinuxResources)
		if err = json.Unmarshal(req.Resources, resources); err != nil {
			err = initproc.Invalid("resources: %v", err)
		} else {
			err = c.cgroup.apply(resources)
		}
	}
	return &protocol.UpdateResponse{}, statusOf(err)
}

func (s *service) Processes(_ context.Context, req *protocol.ProcessesRequest) (*protocol.ProcessesResponse, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, statusOf(err)
	}
	pids, err := c.cgroup.pids()
	if err != nil {
		return nil, statusOf(err)
	}
	list, err := processes(pids)
	return &protocol.ProcessesResponse{Processes: list}, statusOf(err)
}

func (s *service) Stats(_ context.Context, req *protocol.StatsRequest) (*protocol.StatsResponse, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, statusOf(err)
	}
	resp, err := c.cgroup.stats()
	return resp, statusOf(err)
}

func (s *service) SetTime(_ context.Context, req *protocol.SetTimeRequest) (*protocol.SetTimeResponse, error) {
	return &protocol.SetTimeResponse{}, statusOf(setTime(req.UnixNano))
}

func setTime(unixNano int64) error {
	if unixNano <= 0 {
		return initproc.Invalid("time %d is before 1970", unixNano)
	}
	ts := unix.NsecToTimespec(unixNano)
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

func (s *service) AddEntropy(_ context.Context, req *protocol.AddEntropyRequest) (*protocol.AddEntropyResponse, error) {
	return &protocol.AddEntropyResponse{}, statusOf(addEntropy(req.Data))
}

func addEntropy(p []byte) error {
	if len(p) == 0 || len(p) > maxEntropy {
		return initproc.Invalid("%d bytes of entropy: 1 to %d expected", len(p), maxEntropy)
	}
	random, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	if err := ioctlAddEntropy(int(random.Fd()), p); err != nil {
		return os.NewSyscallError("add entropy", err)
	}
	return os.NewSyscallError("reseed", ioctlReseed(int(random.Fd())))
}

// resetDelay lets the answer to Shutdown reach the host before the reset.
const resetDelay = 50 * time.Millisecond

func (s *service) Shutdown(ctx context.Context, _ *protocol.ShutdownRequest) (*protocol.ShutdownResponse, error) {
	a := s.agent
	a.mu.Lock()
	var ids []string
	for id, c := range a.containers {
		if c != nil {
			ids = append(ids, id)
		}
	}
	a.mu.Unlock()
	for _, id := range ids {
		if err := s.delete(ctx, id); err != nil {
			a.log.Warn("shutdown", "container", id, "error", err)
		}
	}
	unix.Sync()
	time.AfterFunc(resetDelay, a.opts.Reset)
	return &protocol.ShutdownResponse{}, nil
}
