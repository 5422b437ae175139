package vmm

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/boot"
	"runv.dev/runv/vmm/kvm"
)

// Model-specific registers and their values at the start.
const (
	msrMiscEnable = 0x1a0
	msrMTRRDefine = 0x2ff

	// Fast string operations, without which Linux avoids rep movs; and no
	// branch or event sampling (IA32_MISC_ENABLE).
	miscEnable = 1<<0 | 1<<11 | 1<<12

	// MTRRs on, memory is write-back unless one says otherwise.
	mtrrDefault = 1<<11 | 6
)

// Control register and EFER bits of a processor in long mode.
const (
	cr0PE = 1 << 0
	cr0MP = 1 << 1
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0AM = 1 << 18
	cr0PG = 1 << 31

	cr4PAE = 1 << 5

	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsFixed = 1 << 1
)

// maxRetries bounds how often in a row KVM_RUN may fail with EAGAIN or ENOMEM,
// which some kernels do when they are short of memory for page tables or
// change them concurrently. Retries after the first few are a millisecond
// apart, and failures that come less often than retryWindow are not in a row:
// EAGAIN is also how a processor that waited for its start-up interrupt comes
// back.
const (
	maxRetries   = 1000
	quickRetries = 16
	retryWindow  = 100 * time.Millisecond
)

// vcpu is one virtual processor. Its fields belong to its thread, with the
// exception of tid.
type vcpu struct {
	vm  *VM
	id  int
	kvm *kvm.VCPU
	tid int // of the thread in loop, else 0; guarded by vm.mu

	exits exitCounts
}

// exitCounts says what a vCPU left the guest for.
type exitCounts struct {
	mmio, pio, interrupted, other uint64
}

// prepare gives a new vCPU its identity.
func (c *vcpu) prepare(template []kvm.CPUIDEntry) error {
	if err := c.kvm.SetCPUID(cpuidFor(template, uint32(c.id))); err != nil {
		return err
	}
	entries := []kvm.MSREntry{{Index: msrMTRRDefine, Data: mtrrDefault}}
	if isIntel(template) {
		entries = append(entries, kvm.MSREntry{Index: msrMiscEnable, Data: miscEnable})
	}
	return c.kvm.SetMSRs(entries...)
}

// start sets the registers as the boot protocol wants them.
func (c *vcpu) start(e boot.Entry) error {
	s, err := c.kvm.Sregs()
	if err != nil {
		return err
	}
	code := kvm.Segment{Limit: 0xffffffff, Selector: boot.CodeSelector, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: boot.DataSelector, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.CS = code
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.GDT = kvm.DTable{Base: e.GDTBase, Limit: e.GDTLimit}
	s.IDT = kvm.DTable{}
	s.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0AM | cr0PG
	s.CR3 = e.CR3
	s.CR4 = cr4PAE
	s.EFER = eferLME | eferLMA
	if err := c.kvm.SetSregs(s); err != nil {
		return err
	}
	return c.kvm.SetRegs(kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RFLAGS: rflagsFixed})
}

// loop runs the vCPU until the machine ends. The goroutine keeps its thread to
// itself and takes it along when it ends.
func (c *vcpu) loop() {
	runtime.LockOSThread()
	setThreadName(fmt.Sprintf("vcpu%d", c.id))
	defer c.vm.leave(c)
	if !c.vm.enter(c) {
		return
	}
	retries, lastRetry := 0, time.Time{}
	for {
		switch errno := c.kvm.Run(); errno {
		case 0:
			retries = 0
			if !c.handle() {
				return
			}
		case unix.EINTR:
			retries = 0
			c.exits.interrupted++
			c.kvm.SetImmediateExit(false)
			if !c.vm.obey(c) {
				return
			}
			c.resumed()
		case unix.EAGAIN, unix.ENOMEM:
			now := time.Now()
			if now.Sub(lastRetry) > retryWindow {
				retries = 0
			}
			lastRetry = now
			if retries++; retries > maxRetries {
				c.fail(errno)
				return
			}
			if retries > quickRetries {
				time.Sleep(time.Millisecond)
			}
		case unix.EFAULT:
			// The guest touched what is not there to be mapped.
			if c.kvm.ExitReason() == kvm.ExitMemoryFault {
				c.vm.stop(exitOf(c.kvm, c.id), nil)
				return
			}
			c.fail(errno)
			return
		default:
			c.fail(errno)
			return
		}
	}
}

func (c *vcpu) fail(errno unix.Errno) {
	c.vm.stop(Exit{Reason: ExitHostError, VCPU: c.id},
		fmt.Errorf("vCPU %d: %w", c.id, &kvm.Error{Op: "KVM_RUN", Errno: errno}))
}

// handle deals with one exit. It reports whether to go on.
func (c *vcpu) handle() bool {
	switch c.kvm.ExitReason() {
	case kvm.ExitMMIO:
		c.exits.mmio++
		m, err := c.kvm.MMIO()
		if err != nil {
			c.vm.stop(Exit{Reason: ExitHostError, VCPU: c.id}, err)
			return false
		}
		if m.Write {
			c.vm.bus.write(m.Addr, m.Data)
		} else {
			c.vm.bus.read(m.Addr, m.Data)
		}
		return true
	case kvm.ExitIO:
		c.exits.pio++
		io, err := c.kvm.IO()
		if err != nil {
			c.vm.stop(Exit{Reason: ExitHostError, VCPU: c.id}, err)
			return false
		}
		if pio(io) {
			c.vm.stop(Exit{Reason: ExitReset, VCPU: c.id}, nil)
			return false
		}
		return true
	case kvm.ExitIntr, kvm.ExitIRQWindowOpen, kvm.ExitIOAPICEOI:
		// Nothing waits for an EOI: all interrupts are edge-triggered.
		c.exits.other++
		return true
	default:
		c.vm.stop(exitOf(c.kvm, c.id), nil)
		return false
	}
}

// resumed runs on the vCPU's thread when it was out of the guest by a signal.
// That may have been for long: a pause, or a process that was frozen or stopped,
// which looks like any other signal from here.
func (c *vcpu) resumed() {
	// EINVAL: the guest does not use kvm-clock (yet), so nothing was lost.
	if err := c.kvm.KVMClockCtrl(); err != nil && !errors.Is(err, unix.EINVAL) {
		c.vm.log.Warn("resume", "vcpu", c.id, "error", err)
	}
}

// logExits writes what the vCPUs did. They must have ended.
func (vm *VM) logExits() {
	for _, c := range vm.vcpus {
		vm.log.Debug("vcpu exits", slog.Int("vcpu", c.id),
			slog.Uint64("mmio", c.exits.mmio), slog.Uint64("pio", c.exits.pio),
			slog.Uint64("interrupted", c.exits.interrupted), slog.Uint64("other", c.exits.other))
	}
}
