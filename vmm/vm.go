// Package vmm assembles and runs one virtual machine on KVM: memory, vCPUs,
// split interrupt controller, a bus of virtio-mmio devices, and a Linux kernel
// ready to start.
//
// Threads: each vCPU has an OS thread of its own, which alone touches its
// kvm_run and never blocks on I/O. Everything else happens on goroutines of
// the devices. run.go has the protocol between vCPUs and the rest.
//
// The guest is not trusted. What it can reach here is the bus, a few I/O ports
// and the IOAPIC; each handles any address, width and value.
package vmm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/vmm/boot"
	"runv.dev/runv/vmm/kvm"
)

// Guest-physical addresses in the gap below 4 GiB.
const (
	deviceBase  = 0xd0000000
	ioapicBase  = boot.IOAPICAddr
	identityMap = 0xfffbc000 // 1 page, then 3 of the TSS: only VT-x uses them
	tssAddr     = identityMap + mmioPage
)

// maxDevices leaves out pin 0: Linux takes interrupt 0 for none.
const maxDevices = maxPins - 1

// VM is a virtual machine. New makes it, Run runs it once, Close frees it.
type VM struct {
	cfg   Config
	log   *slog.Logger
	ram   *ram
	kvm   *kvm.VM
	vcpus []*vcpu
	cpuid []kvm.CPUIDEntry // what all vCPUs have in common
	msrs  []uint32         // those that a state has; see learn
	xsave int              // bytes of extended state
	bus   bus

	ioapic     *ioapic
	transports []*mmio.Transport

	closers   []func() error // in order of creation
	closeOnce sync.Once
	closeErr  error

	runState
}

// New makes a virtual machine that is ready to start its kernel, or to go on
// from a snapshot. If it fails, nothing is left.
func New(cfg Config) (*VM, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("virtual machine: %w", err)
	}
	vm := &VM{cfg: cfg, log: cfg.Log}
	vm.runState.init()
	if err := vm.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("virtual machine: %w", err), vm.Close())
	}
	return vm, nil
}

// build makes everything. The order matters for speed: a memory slot costs
// milliseconds once there is an interrupt chip, and loading the kernel is the
// longest part that needs nothing of KVM.
func (vm *VM) build() error {
	addProcs(vm.cfg.VCPUs)
	vm.onClose(func() error {
		addProcs(-vm.cfg.VCPUs)
		return nil
	})
	var err error
	if vm.ram, err = newRAM(vm.cfg.MemoryBytes); err != nil {
		return err
	}
	vm.onClose(vm.ram.release)
	if vm.cfg.Checkpoints {
		if vm.ram.pagemap, err = openPagemap(); err != nil {
			return err
		}
		vm.onClose(vm.ram.pagemap.Close)
	}
	if s := vm.cfg.Snapshot; s != nil {
		if err := vm.loadMemory(s); err != nil {
			return err
		}
		vm.cfg.trace("memory mapped")
		loaded := make(chan struct{})
		go func() {
			defer close(loaded)
			vm.ram.preload(s.Machine.Memory.Working)
			vm.cfg.trace("working set loaded")
		}()
		err := vm.buildMachine()
		if err == nil {
			err = vm.restore()
		}
		<-loaded
		if err == nil {
			vm.preFault(s.Machine.Memory.Working)
		}
		return err
	}
	type loaded struct {
		entry boot.Entry
		err   error
	}
	load := make(chan loaded, 1)
	go func() {
		entry, err := vm.load()
		vm.cfg.trace("kernel loaded")
		load <- loaded{entry, err}
	}()
	err = vm.buildMachine()
	l := <-load
	if err := errors.Join(l.err, err); err != nil {
		return err
	}
	if err := vm.vcpus[0].start(l.entry); err != nil {
		return err
	}
	vm.cfg.trace("ready")
	return nil
}

func (vm *VM) onClose(f func() error) { vm.closers = append(vm.closers, f) }

// load puts the kernel into memory.
func (vm *VM) load() (boot.Entry, error) {
	seed := make([]byte, 64)
	rand.Read(seed)
	pins := make([]uint8, len(vm.cfg.Devices))
	for i := range pins {
		pins[i] = devicePin(i)
	}
	return boot.Load(vm.ram.mem, boot.Params{
		Kernel:  vm.cfg.Kernel,
		Initrd:  vm.cfg.Initrd,
		Cmdline: vm.cmdline(),
		VCPUs:   vm.cfg.VCPUs,
		Pins:    pins,
		Seed:    seed,
	})
}

func (vm *VM) cmdline() string {
	s := DefaultCmdline
	for i := range vm.cfg.Devices {
		s += fmt.Sprintf(" virtio_mmio.device=4K@%#x:%d", deviceAddr(i), devicePin(i))
	}
	if vm.cfg.Cmdline != "" {
		s += " " + vm.cfg.Cmdline
	}
	return s
}

// deviceAddr is where the registers of a device are.
func deviceAddr(i int) uint64 { return deviceBase + uint64(i)*mmioPage }

// devicePin is the IOAPIC pin, GSI and, as there is no legacy interrupt
// controller, Linux interrupt number of a device.
func devicePin(i int) uint8 { return uint8(i + 1) }

// buildMachine makes everything that KVM knows of.
func (vm *VM) buildMachine() error {
	sys := kvm.NewSystem(vm.cfg.KVM)
	if v, err := sys.APIVersion(); err != nil {
		return err
	} else if v != kvm.APIVersion {
		return fmt.Errorf("KVM API version %d: want %d", v, kvm.APIVersion)
	}
	supported, err := sys.SupportedCPUID()
	if err != nil {
		return err
	}
	if vm.kvm, err = sys.CreateVM(); err != nil {
		return err
	}
	vm.onClose(vm.kvm.Close)
	vm.cfg.trace("machine created")

	for i, r := range vm.ram.mem.Regions() {
		if err := vm.kvm.SetUserMemoryRegion(kvm.UserspaceMemoryRegion{
			Slot:          uint32(i),
			GuestPhysAddr: r.Addr,
			MemorySize:    uint64(len(r.Data)),
			UserspaceAddr: hostAddr(r.Data),
		}); err != nil {
			return err
		}
	}
	if needsRealModeHelp(supported) {
		if err := errors.Join(
			vm.kvm.SetIdentityMapAddr(identityMap),
			vm.kvm.SetTSSAddr(tssAddr),
		); err != nil {
			return err
		}
	}
	vm.cfg.trace("memory")

	pins := 1 + len(vm.cfg.Devices)
	if err := vm.kvm.EnableCap(kvm.CapSplitIRQChip, uint64(pins)); err != nil {
		return fmt.Errorf("split interrupt chip: %w", err)
	}
	// Best effort: before Linux 5.18 the CPUID leaves alone say that there
	// are no counters.
	if n, err := vm.kvm.CheckExtension(kvm.CapPMUCapability); err == nil && n&kvm.PMUCapDisable != 0 {
		if err := vm.kvm.EnableCap(kvm.CapPMUCapability, kvm.PMUCapDisable); err != nil {
			return err
		}
	}
	vm.ioapic = newIOAPIC(pins, vm.kvm.SetGSIRouting, func(err error) {
		vm.stop(Exit{Reason: ExitHostError, VCPU: -1}, err)
	})
	vm.bus.ioapic = vm.ioapic
	vm.cfg.trace("interrupt chip")

	if err := vm.buildVCPUs(supported); err != nil {
		return err
	}
	vm.cfg.trace("vcpus")
	if err := vm.buildDevices(); err != nil {
		return err
	}
	vm.cfg.trace("devices")
	if vm.cfg.Checkpoints {
		return vm.learn()
	}
	return nil
}

// Descriptors are those that the machine reads its own memory's state from.
func (vm *VM) Descriptors() []int {
	if vm.ram.pagemap == nil {
		return nil
	}
	return []int{int(vm.ram.pagemap.Fd())}
}

func (vm *VM) buildVCPUs(supported []kvm.CPUIDEntry) error {
	deadline, err := vm.kvm.CheckExtension(kvm.CapTSCDeadlineTimer)
	if err != nil {
		return err
	}
	vm.cpuid = cpuidTemplate(supported, vm.cfg.VCPUs, deadline != 0)
	if s := vm.cfg.Snapshot; s != nil {
		if !sameProcessor(s.Machine.CPUID, vm.cpuid) {
			return errors.New("the snapshot is of a machine with another processor")
		}
		vm.cpuid = s.Machine.CPUID
	}
	for id := range vm.cfg.VCPUs {
		v, err := vm.kvm.CreateVCPU(id)
		if err != nil {
			if errors.Is(err, unix.EINVAL) {
				err = fmt.Errorf("vCPU %d: more than this host allows: %w", id, err)
			}
			return err
		}
		vm.onClose(v.Close)
		c := &vcpu{vm: vm, id: id, kvm: v}
		vm.vcpus = append(vm.vcpus, c)
		if err := c.prepare(vm.cpuid); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
	}
	return nil
}

// buildDevices puts the devices on the bus: registers, an interrupt through an
// irqfd, and a doorbell for each queue through an ioeventfd.
func (vm *VM) buildDevices() error {
	vm.bus.base = deviceBase
	for i, dev := range vm.cfg.Devices {
		irq, err := newIRQ(vm.kvm, uint32(devicePin(i)))
		if err != nil {
			return err
		}
		vm.onClose(irq.Close)
		t, err := mmio.New(dev, vm.ram.mem, irq, vm.log)
		if err != nil {
			return err
		}
		vm.onClose(t.Close)
		for q, n := range t.Notifiers() {
			if err := vm.kvm.AssignIOEventFD(n.FD(), deviceAddr(i)+mmio.QueueNotify, uint32(q)); err != nil {
				return err
			}
		}
		vm.bus.devices = append(vm.bus.devices, t)
		vm.transports = append(vm.transports, t)
	}
	return nil
}

// Close stops the machine if it runs, and frees everything in reverse order.
// It may be called repeatedly and concurrently; every call returns when all is
// done, with the same result.
func (vm *VM) Close() error {
	vm.stop(Exit{Reason: ExitStopped, VCPU: -1, Detail: "closed"}, nil)
	vm.join()
	vm.closeOnce.Do(func() {
		var errs []error
		for len(vm.closers) > 0 {
			last := len(vm.closers) - 1
			errs = append(errs, vm.closers[last]())
			vm.closers = vm.closers[:last]
		}
		vm.closeErr = errors.Join(errs...)
	})
	return vm.closeErr
}
