package client

import (
	"context"
	"fmt"
	"math"
	"time"

	"runv.dev/runv/agent/protocol"
)

// Process is one process in a container, as the guest tells it.
type Process struct {
	PID, ParentPID int // in the agent's PID namespace; a parent outside is 0
	ContainerPID   int // in the container's
	UID, GID       uint32
	State          string // one letter, as in /proc/PID/stat
	Command        string
	Args           []string
	Started        time.Time
	CPUTime        time.Duration
	RSS            uint64 // bytes
	TTY            uint32 // device number, 0: none
}

// Processes lists the processes of a container.
func (c *Client) Processes(ctx context.Context, id string) ([]Process, error) {
	resp, err := call(ctx, c, "processes", c.agent.Processes, &protocol.ProcessesRequest{ContainerId: id})
	if err != nil {
		return nil, err
	}
	list := make([]Process, 0, len(resp.Processes))
	for _, m := range resp.Processes {
		p, err := checkProcess(m)
		if err != nil {
			return nil, fmt.Errorf("processes: %w", err)
		}
		list = append(list, p)
	}
	return list, nil
}

func checkProcess(m *protocol.Process) (Process, error) {
	if m == nil {
		return Process{}, ErrProtocol
	}
	pid := int(m.Pid)
	if m.Pid == 0 || m.Pid > math.MaxInt32 || m.ParentPid > math.MaxInt32 || m.ContainerPid > math.MaxInt32 || m.CpuNanoseconds > math.MaxInt64 {
		return Process{}, fmt.Errorf("%w: process %d out of range", ErrProtocol, pid)
	}
	p := Process{
		PID:          pid,
		ParentPID:    int(m.ParentPid),
		ContainerPID: int(m.ContainerPid),
		UID:          m.Uid,
		GID:          m.Gid,
		State:        printable(m.State),
		Command:      printable(m.Command),
		Started:      time.Unix(0, m.StartedUnixNano),
		CPUTime:      time.Duration(m.CpuNanoseconds),
		RSS:          m.RssBytes,
		TTY:          m.Tty,
	}
	for _, arg := range m.Args {
		p.Args = append(p.Args, printable(arg))
	}
	return p, nil
}

// NoLimit is a limit that is not set.
const NoLimit = math.MaxUint64

// Stats is the resource usage of a container as the guest's cgroup counts it.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
}

// CPUStats are times of all CPUs together.
type CPUStats struct {
	Usage, User, System       time.Duration
	Periods, ThrottledPeriods uint64
	Throttled                 time.Duration
}

// MemoryStats are in bytes; Stat and Events are cgroup v2's memory.stat and
// memory.events.
type MemoryStats struct {
	Current, Peak, Limit   uint64
	SwapCurrent, SwapLimit uint64
	Stat, Events           map[string]uint64
}

// PidsStats counts processes and threads.
type PidsStats struct {
	Current, Limit uint64
}

// Stats has the resource usage of a container.
func (c *Client) Stats(ctx context.Context, id string) (*Stats, error) {
	resp, err := call(ctx, c, "stats", c.agent.Stats, &protocol.StatsRequest{ContainerId: id})
	if err != nil {
		return nil, err
	}
	cpu, memory, pids := resp.GetCpu(), resp.GetMemory(), resp.GetPids()
	return &Stats{
		CPU: CPUStats{
			Usage:            microseconds(cpu.GetUsageUsec()),
			User:             microseconds(cpu.GetUserUsec()),
			System:           microseconds(cpu.GetSystemUsec()),
			Periods:          cpu.GetPeriods(),
			ThrottledPeriods: cpu.GetThrottledPeriods(),
			Throttled:        microseconds(cpu.GetThrottledUsec()),
		},
		Memory: MemoryStats{
			Current:     memory.GetCurrentBytes(),
			Peak:        memory.GetPeakBytes(),
			Limit:       memory.GetLimitBytes(),
			SwapCurrent: memory.GetSwapCurrentBytes(),
			SwapLimit:   memory.GetSwapLimitBytes(),
			Stat:        counters(memory.GetStat()),
			Events:      counters(memory.GetEvents()),
		},
		Pids: PidsStats{Current: pids.GetCurrent(), Limit: pids.GetLimit()},
	}, nil
}

// microseconds saturates: the number is the guest's.
func microseconds(n uint64) time.Duration {
	const most = uint64(math.MaxInt64 / time.Microsecond)
	return time.Duration(min(n, most)) * time.Microsecond
}

// What a guest may name counters; the kernel's are fewer and shorter.
const (
	maxCounters    = 512
	maxCounterName = 64
)

// counters bounds a table of the guest's and makes its names printable.
func counters(m map[string]uint64) map[string]uint64 {
	clean := make(map[string]uint64, min(len(m), maxCounters))
	for name, n := range m {
		if len(clean) == maxCounters {
			break
		}
		if len(name) <= maxCounterName {
			clean[printable(name)] = n
		}
	}
	return clean
}
