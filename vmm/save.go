package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/vmm/boot"
	"runv.dev/runv/vmm/kvm"
	"runv.dev/runv/vmm/snapshot"
)

// Snapshot is a stored machine and its memory: a file that is mapped, or, if
// Copy is set, what is read from there.
type Snapshot struct {
	Machine *snapshot.Machine
	Memory  MemoryFile
	Copy    io.Reader
}

// idleTimeout bounds how long Save waits for devices to answer what the guest
// has asked. They are taken for idle when they do nothing for idlePause.
const (
	idleTimeout = 10 * time.Second
	idlePause   = 50 * time.Millisecond
)

// Save describes the paused machine, and writes the parts of its memory that
// are not zero to memory, one after another. The machine is of no more use
// then, whether Save fails or not: its devices are stopped.
func (vm *VM) Save(memory io.Writer) (*snapshot.Machine, error) {
	if err := vm.standsStill(); err != nil {
		return nil, err
	}
	m, err := vm.save(memory)
	if err != nil {
		return nil, fmt.Errorf("save the virtual machine: %w", err)
	}
	return m, nil
}

func (vm *VM) standsStill() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.phase != phasePaused || vm.parked < vm.live {
		return errors.New("save the virtual machine: it is not paused")
	}
	return nil
}

func (vm *VM) save(memory io.Writer) (*snapshot.Machine, error) {
	if err := vm.waitIdle(); err != nil {
		return nil, err
	}
	var devices []mmio.State
	for _, t := range vm.transports {
		s, err := t.Save()
		if err != nil {
			return nil, err
		}
		devices = append(devices, *s)
	}
	return vm.describe(devices, memory)
}

// Checkpoint is Save of a machine that can be resumed afterwards. Its devices
// wait while it is written. The machine must have been made with
// Config.Checkpoints.
func (vm *VM) Checkpoint(memory io.Writer) (*snapshot.Machine, error) {
	if err := vm.standsStill(); err != nil {
		return nil, err
	}
	devices, thaw, err := vm.freeze()
	if err != nil {
		return nil, fmt.Errorf("save the virtual machine: %w", err)
	}
	defer thaw()
	m, err := vm.describe(devices, memory)
	if err != nil {
		return nil, fmt.Errorf("save the virtual machine: %w", err)
	}
	return m, nil
}

// freeze has all devices wait, between two requests.
func (vm *VM) freeze() (devices []mmio.State, thaw func(), err error) {
	for deadline := time.Now().Add(idleTimeout); ; time.Sleep(idlePause) {
		devices, thaw, err = vm.tryFreeze()
		if !errors.Is(err, mmio.ErrBusy) || time.Now().After(deadline) {
			return devices, thaw, err
		}
	}
}

func (vm *VM) tryFreeze() (devices []mmio.State, thaw func(), err error) {
	var undo []func()
	thaw = func() {
		for _, f := range undo {
			f()
		}
	}
	for _, t := range vm.transports {
		s, f, err := t.Freeze()
		if err != nil {
			thaw()
			return nil, nil, err
		}
		devices, undo = append(devices, *s), append(undo, f)
	}
	return devices, thaw, nil
}

// learn finds out what the state of a vCPU consists of. It needs the KVM device.
func (vm *VM) learn() error {
	if vm.msrs != nil {
		return nil
	}
	msrs, err := kvm.NewSystem(vm.cfg.KVM).MSRIndexList()
	if err != nil {
		return err
	}
	if vm.xsave, err = vm.kvm.CheckExtension(kvm.CapXSave2); err != nil {
		return err
	}
	vm.msrs = slices.DeleteFunc(msrs, isHyperV)
	return nil
}

// describe is the state of a machine whose devices stand still.
func (vm *VM) describe(devices []mmio.State, memory io.Writer) (*snapshot.Machine, error) {
	m := &snapshot.Machine{MemoryBytes: vm.cfg.MemoryBytes, CPUID: vm.cpuid, Devices: devices}
	if err := vm.learn(); err != nil {
		return nil, err
	}
	for _, c := range vm.vcpus {
		s, err := c.kvm.State(vm.xsave, vm.msrs)
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", c.id, err)
		}
		m.VCPUs = append(m.VCPUs, *s)
	}
	var err error
	if m.Clock, err = vm.kvm.Clock(); err != nil {
		return nil, err
	}
	m.IOAPIC = vm.ioapic.save()
	m.Memory.Extents, err = vm.ram.save(memory)
	return m, err
}

// isHyperV tells whether an MSR is one of Microsoft's hypervisor, which the guest
// does not have: writing one makes KVM emulate that.
func isHyperV(msr uint32) bool { return msr >= 0x40000000 && msr < 0x40000200 }

// waitIdle waits until the devices have done what the guest has asked: until
// none of their queues moves any more.
func (vm *VM) waitIdle() error {
	var last []uint32
	for deadline := time.Now().Add(idleTimeout); time.Now().Before(deadline); {
		now := []uint32{}
		for _, t := range vm.transports {
			now = t.Progress(now)
		}
		if last != nil && slices.Equal(now, last) {
			return nil
		}
		last = now
		time.Sleep(idlePause)
	}
	return fmt.Errorf("the devices are still at work after %v", idleTimeout)
}

// restore puts a machine that was just built into the state of the snapshot.
// The vCPUs come before the clock, which they use, and both before the devices,
// which may interrupt.
func (vm *VM) restore() error {
	m := vm.cfg.Snapshot.Machine
	if len(m.Devices) != len(vm.transports) {
		return fmt.Errorf("the snapshot is of a machine with %d devices, not %d", len(m.Devices), len(vm.transports))
	}
	for i, c := range vm.vcpus {
		if err := c.kvm.SetState(&m.VCPUs[i]); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	if err := vm.kvm.SetClock(m.Clock); err != nil {
		return err
	}
	if err := vm.ioapic.restore(m.IOAPIC); err != nil {
		return err
	}
	for i, t := range vm.transports {
		if err := t.Restore(&m.Devices[i]); err != nil {
			return err
		}
	}
	for _, c := range vm.vcpus {
		c.resumed()
	}
	vm.cfg.trace("restored")
	return nil
}

// preFault has KVM map the working set, which the host has mapped already, so
// that the guest does not leave at every page. Only time is lost if that fails,
// or if the host's kernel cannot do it (before Linux 6.11).
func (vm *VM) preFault(w snapshot.WorkingSet) {
	if n, err := vm.kvm.CheckExtension(kvm.CapPreFaultMemory); err != nil || n == 0 {
		return
	}
	list := slices.Concat(w.Written, w.Read)
	slices.SortFunc(list, func(a, b snapshot.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, e := range merge(list, pageSize) {
		for _, part := range guestRanges(e) {
			if err := vm.vcpus[0].kvm.PreFaultMemory(part.Offset, part.Length); err != nil {
				vm.log.Debug("prepare the guest's memory", "at", part.Offset, "error", err)
				return
			}
		}
	}
	vm.cfg.trace("working set mapped")
}

// guestRanges are the guest-physical addresses of an extent.
func guestRanges(e snapshot.Extent) []snapshot.Extent {
	const gap = boot.GapEnd - boot.GapStart
	end := e.Offset + e.Length
	switch {
	case end <= boot.GapStart:
		return []snapshot.Extent{e}
	case e.Offset >= boot.GapStart:
		return []snapshot.Extent{{Offset: e.Offset + gap, Length: e.Length}}
	}
	return []snapshot.Extent{
		{Offset: e.Offset, Length: boot.GapStart - e.Offset},
		{Offset: boot.GapEnd, Length: end - boot.GapStart},
	}
}

// WorkingSet tells which memory a clone has used since it went on from its
// snapshot. The machine must be paused.
func (vm *VM) WorkingSet() (snapshot.WorkingSet, error) {
	if err := vm.standsStill(); err != nil {
		return snapshot.WorkingSet{}, err
	}
	return vm.ram.working()
}

// featureLeaves are the CPUID leaves by which software decides what it uses. A
// processor of a mixed host may differ in others.
var featureLeaves = map[uint32]bool{
	leafVendor: true, leafFeatures: true, leafExtendedFeatures: true, leafXSave: true,
	leafKVMFeatures: true, leafExtFeatures: true,
}

// sameProcessor tells whether software that has looked at the leaves a can run
// where they are b.
func sameProcessor(a, b []kvm.CPUIDEntry) bool {
	type key struct{ function, index uint32 }
	features := func(list []kvm.CPUIDEntry) map[key][3]uint32 {
		m := make(map[key][3]uint32)
		for _, e := range list {
			if !featureLeaves[e.Function] {
				continue
			}
			v := [3]uint32{e.EAX, e.ECX, e.EDX}
			if e.Function == leafExtendedFeatures {
				v[0] ^= e.EBX
			}
			m[key{e.Function, e.Index}] = v
		}
		return m
	}
	x, y := features(a), features(b)
	if len(x) != len(y) {
		return false
	}
	for k, v := range x {
		if y[k] != v {
			return false
		}
	}
	return true
}

// save is the state of the controller.
func (a *ioapic) save() snapshot.IOAPIC {
	a.mu.Lock()
	defer a.mu.Unlock()
	return snapshot.IOAPIC{Selected: a.selected, ID: a.id, Redirection: append([]uint64(nil), a.redir[:a.pins]...)}
}

// restore puts a new controller into a saved state.
func (a *ioapic) restore(s snapshot.IOAPIC) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(s.Redirection) != a.pins {
		return fmt.Errorf("the snapshot is of an IOAPIC with %d pins, not %d", len(s.Redirection), a.pins)
	}
	a.selected, a.id = s.Selected, s.ID&ioapicIDMask
	for i, e := range s.Redirection {
		a.redir[i] = e & redirWritable
	}
	var failure error
	fail := a.fail
	a.fail = func(err error) { failure = err }
	a.update()
	a.fail = fail
	return failure
}
