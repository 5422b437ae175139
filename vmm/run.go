package vmm

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kickSignal ends a KVM_RUN. SIGURG is what the Go runtime itself sends to its
// threads to preempt goroutines: it is never blocked, its handler stays
// installed whatever the program does with os/signal, and the runtime expects
// to see it without a cause. The handler has no other effect, all that counts
// is that a signal was pending.
const kickSignal = unix.SIGURG

// ErrStopped is returned by Pause and Resume when the machine has ended.
var ErrStopped = errors.New("virtual machine has stopped")

// phase is what the vCPUs are meant to do.
type phase int

const (
	phaseRunning phase = iota
	phasePaused
	phaseStopped
)

// runState is how vCPU threads and everybody else talk. A request is made in
// three steps: set phase, set immediate_exit, signal the thread. A vCPU that
// is inside KVM_RUN leaves it because of the signal, one that is about to
// enter because of immediate_exit, and both with EINTR. Only then, when KVM
// has completed the I/O of the last exit, the vCPU clears immediate_exit and
// after that looks at phase: a request made in between sets immediate_exit
// again, and none is lost. EINTR without a request (the runtime's preemption)
// takes the same path and finds nothing to do.
type runState struct {
	mu      sync.Mutex
	changed sync.Cond // phase, live or parked
	phase   phase
	live    int // vCPU threads in their loop
	parked  int // of them, waiting for phase to change
	started bool
	exit    Exit
	err     error
	threads sync.WaitGroup
}

func (s *runState) init() { s.changed.L = &s.mu }

// Run runs the machine until it ends: by itself, by a failure or because ctx
// ends. Then it stops all vCPUs, waits for them, and closes the machine. The
// error is the host's: what a guest does ends in an Exit without one. Run can
// be called once.
func (vm *VM) Run(ctx context.Context) (Exit, error) {
	vm.mu.Lock()
	if vm.started {
		vm.mu.Unlock()
		return Exit{Reason: ExitHostError, VCPU: -1}, errors.New("virtual machine: Run called twice")
	}
	vm.started = true
	if ctx.Err() != nil { // no instruction is to be executed
		vm.stopLocked(stopped(ctx), nil)
	}
	if vm.phase != phaseStopped {
		for _, c := range vm.vcpus {
			vm.threads.Add(1)
			go func() {
				defer vm.threads.Done()
				c.loop()
			}()
		}
	}
	vm.mu.Unlock()
	vm.cfg.trace("run")

	release := context.AfterFunc(ctx, func() { vm.stop(stopped(ctx), nil) })
	vm.join()
	release()
	vm.cfg.trace("stopped")
	vm.logExits()
	closeErr := vm.Close()
	vm.cfg.trace("closed")
	return vm.exit, errors.Join(vm.err, closeErr)
}

// stopped is the end of a machine whose context is over.
func stopped(ctx context.Context) Exit {
	return Exit{Reason: ExitStopped, VCPU: -1, Detail: context.Cause(ctx).Error()}
}

// join waits until no vCPU thread runs.
func (vm *VM) join() { vm.threads.Wait() }

// stop ends the machine. Only the first caller's reason counts. It does not
// wait.
func (vm *VM) stop(e Exit, err error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.stopLocked(e, err)
}

// stopLocked is stop for a caller that holds mu.
func (vm *VM) stopLocked(e Exit, err error) {
	if vm.phase == phaseStopped {
		return
	}
	vm.exit, vm.err = e, err
	vm.setPhase(phaseStopped)
}

// Pause stops the vCPUs between two instructions, with no I/O half done, and
// returns when none runs. Devices go on. A machine can be paused before Run.
func (vm *VM) Pause() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.phase == phaseRunning {
		vm.setPhase(phasePaused)
	}
	for vm.phase == phasePaused && vm.parked < vm.live {
		vm.changed.Wait()
	}
	switch vm.phase {
	case phaseStopped:
		return ErrStopped
	case phaseRunning:
		return errors.New("virtual machine: resumed while it was pausing")
	}
	return nil
}

// Resume undoes Pause.
func (vm *VM) Resume() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	switch vm.phase {
	case phaseStopped:
		return ErrStopped
	case phasePaused:
		vm.setPhase(phaseRunning)
	}
	return nil
}

// setPhase makes a request of all vCPUs. Caller holds mu.
func (vm *VM) setPhase(p phase) {
	vm.phase = p
	vm.changed.Broadcast()
	if p == phaseRunning {
		return
	}
	pid := os.Getpid()
	for _, c := range vm.vcpus {
		if c.tid == 0 {
			continue
		}
		c.kvm.SetImmediateExit(true)
		// It can only fail if the thread is gone, which tid rules out.
		_ = unix.Tgkill(pid, c.tid, kickSignal)
	}
}

// enter makes the calling thread the one of c. It reports whether c may run.
func (vm *VM) enter(c *vcpu) bool {
	vm.mu.Lock()
	c.tid = unix.Gettid()
	vm.live++
	vm.mu.Unlock()
	return vm.obey(c)
}

// obey waits while the machine is paused. It reports whether c may run (on).
func (vm *VM) obey(c *vcpu) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for vm.phase == phasePaused {
		vm.parked++
		vm.changed.Broadcast()
		vm.changed.Wait()
		vm.parked--
	}
	return vm.phase == phaseRunning
}

// leave is the end of a vCPU's thread.
func (vm *VM) leave(c *vcpu) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	c.tid = 0
	vm.live--
	vm.changed.Broadcast()
}
