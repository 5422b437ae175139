package vmprocess

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/template"
	"runv.dev/runv/vmm"
	"runv.dev/runv/vmm/snapshot"
)

// settleTime is what a guest gets to finish what nobody waits for, after its
// agent has said that it is ready: the kernel's own threads, closed connections.
const settleTime = 100 * time.Millisecond

// Prepare boots a guest of a shape in this process, has it run a container that
// ends at once, waits until its agent has nothing left to do, and saves it: the
// memory to a file, and the rest as the result. There is no container in it, no
// mount and no connection, and nothing of the host.
func Prepare(ctx context.Context, log *slog.Logger, kvm *os.File, shape template.Shape, memory *os.File) (*snapshot.Machine, error) {
	machine, err := prepare(ctx, log, kvm, shape, memory)
	if err != nil {
		return nil, err
	}
	machine.Memory.Working, err = rehearse(ctx, log, kvm, machine, memory)
	return machine, err
}

// prepare does it, but for the working set.
func prepare(ctx context.Context, log *slog.Logger, kvm *os.File, shape template.Shape, memory *os.File) (*snapshot.Machine, error) {
	guest, err := openAssets(shape.Kernel, shape.Initrd)
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	s, err := openStage(log)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	m := s.machine
	vm, err := m.boot(guest, vmm.Config{
		KVM:         kvm,
		MemoryBytes: shape.MemoryBytes,
		VCPUs:       shape.VCPUs,
		Devices:     s.devices,
		Log:         log,
		Trace:       m.process.trace,
	})
	if err != nil {
		return nil, err
	}
	defer vm.Close()
	if err := s.play(ctx, vm, m.settle); err != nil {
		return nil, err
	}
	machine, err := vm.Save(memory)
	m.process.trace("saved")
	return machine, err
}

// whyNot finds the reason behind an error: the guest's end, or the time.
func (p *process) whyNot(ctx context.Context, m *machine, err error) error {
	if cause := context.Cause(m.guest); cause != nil {
		return cause
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w%s", err, p.lastLines())
}

// settle waits until the agent is ready, and then until the guest has nothing
// left to do.
func (m *machine) settle(ctx context.Context) error {
	if err := m.waitReady(ctx); err != nil {
		return err
	}
	m.process.trace("agent ready")
	agent, err := client.New(ctx, m.dial)
	if err != nil {
		return err
	}
	// What runs for the first time takes longer, and pages that are still to be
	// made: this has happened then when clones begin.
	err = m.perform(ctx, agent)
	if err == nil {
		err = agent.Delete(ctx, rehearsalID)
	}
	if err == nil {
		_, err = agent.SetNetwork(ctx, bareNetwork())
	}
	if err == nil {
		err = agent.Ready(ctx)
	}
	if err = errors.Join(err, agent.Close()); err != nil {
		return err
	}
	for m.vsock.Connections() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(settleTime / 10):
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(settleTime):
	}
	return m.waitReported(ctx)
}

// reportPause is how long there is no report when all free memory has been
// reported: longer than Linux waits between two rounds, 2 s.
const reportPause = 3 * time.Second

// waitReported waits until the guest has reported its free memory. It marks what
// it has reported, a word in each 64 KiB of its page structures, which clones
// would have to do for themselves and in pages of their own. Linux takes 16
// rounds for a large memory.
func (m *machine) waitReported(ctx context.Context) error {
	last, ok := m.balloon.Reporting()
	for ok {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(reportPause):
		}
		now, _ := m.balloon.Reporting()
		if now == last {
			break
		}
		last = now
	}
	return nil
}
