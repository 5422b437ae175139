// Package virtiotest is a fake virtio driver, shared by the tests and fuzz
// targets of the devices: guest memory, a transport, rings, and a driver that
// waits for its interrupts as a real one does. It can also break every rule.
//
// It panics when it is misused and fails the test when a device does not
// answer.
package virtiotest

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/mmio"
)

// Patience is how long the driver waits before it fails the test: far longer
// than anything takes.
const Patience = 60 * time.Second

// HighMemory is where the second region of Memory starts.
const HighMemory = 4 << 30

// Memory makes guest memory with a hole: low bytes at 0 and high bytes at
// HighMemory, rounded up to pages.
func Memory(low, high int) *guestmem.Memory {
	page := func(n int) []byte { return make([]byte, (n+guestmem.PageSize-1)&^(guestmem.PageSize-1)) }
	regions := []guestmem.Region{{Data: page(low)}}
	if high > 0 {
		regions = append(regions, guestmem.Region{Addr: HighMemory, Data: page(high)})
	}
	m, err := guestmem.New(regions...)
	must(err)
	return m
}

// Options vary what Start does. The zero value is everything the device
// offers.
type Options struct {
	MemoryBytes int    // of low memory; 1 MiB if zero
	Refuse      uint64 // features not to accept
	QueueSize   uint16 // at most the device's; the device's if zero
	Log         io.Writer
}

// Driver is a driver bound to one device.
type Driver struct {
	Mem       *guestmem.Memory
	Transport *mmio.Transport
	Features  uint64 // as negotiated
	Queues    []*Queue

	tb   testing.TB
	opt  Options
	next uint64 // allocator

	mu        sync.Mutex
	interrupt chan struct{} // closed and replaced by each interrupt
	config    int           // configuration change interrupts
}

// New makes a driver that has not touched its device yet. All is taken down
// with the test.
func New(tb testing.TB, dev virtio.Device, opt Options) *Driver {
	tb.Helper()
	if opt.MemoryBytes == 0 {
		opt.MemoryBytes = 1 << 20
	}
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	return bind(tb, dev, opt, Memory(opt.MemoryBytes, 1<<16))
}

// Migrate saves the device, and has a driver with the same memory and the same
// idea of its queues go on with dev. The old driver is of no more use.
func (d *Driver) Migrate(dev virtio.Device) *Driver {
	d.tb.Helper()
	state, err := d.Transport.Save()
	if err != nil {
		d.tb.Fatal(err)
	}
	n := bind(d.tb, dev, d.opt, d.Mem)
	n.next, n.Features = d.next, d.Features
	for _, q := range d.Queues {
		moved := *q
		moved.d = n
		for _, r := range moved.requests {
			r.q = &moved
		}
		n.Queues = append(n.Queues, &moved)
	}
	if err := n.Transport.Restore(state); err != nil {
		d.tb.Fatal(err)
	}
	return n
}

// bind makes a driver with this memory.
func bind(tb testing.TB, dev virtio.Device, opt Options, mem *guestmem.Memory) *Driver {
	tb.Helper()
	d := &Driver{
		Mem:       mem,
		tb:        tb,
		opt:       opt,
		next:      guestmem.PageSize,
		interrupt: make(chan struct{}),
	}
	irq, err := eventfd.New()
	if err != nil {
		tb.Fatal(err)
	}
	d.Transport, err = mmio.New(dev, d.Mem, irq, slog.New(slog.NewTextHandler(opt.Log, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for irq.Wait() == nil {
			d.handleInterrupt()
		}
	}()
	tb.Cleanup(func() {
		if err := d.Transport.Close(); err != nil {
			tb.Error(err)
		}
		if err := irq.Close(); err != nil {
			tb.Error(err)
		}
		<-done
	})
	return d
}

// Start is New followed by Init.
func Start(tb testing.TB, dev virtio.Device, opt Options) *Driver {
	tb.Helper()
	d := New(tb, dev, opt)
	d.Init()
	return d
}

// Init resets the device and takes it through the initialization of section
// 3.1.1 to DRIVER_OK, with all queues.
func (d *Driver) Init() {
	d.tb.Helper()
	d.Reset()
	d.next = guestmem.PageSize
	const start = mmio.StatusAcknowledge | mmio.StatusDriver
	d.Set(mmio.Status, mmio.StatusAcknowledge)
	d.Set(mmio.Status, start)
	d.Negotiate(d.offered() &^ d.opt.Refuse)
	if s := d.Get(mmio.Status); s != start|mmio.StatusFeaturesOK {
		d.tb.Fatalf("status is %#x after FEATURES_OK", s)
	}
	d.Queues = nil
	for i := 0; ; i++ {
		d.Set(mmio.QueueSel, uint32(i))
		size := uint16(d.Get(mmio.QueueNumMax))
		if size == 0 {
			break
		}
		if d.opt.QueueSize != 0 {
			size = min(size, d.opt.QueueSize)
		}
		r := NewRing(d.Mem, d.Alloc(RingBytes(size)), size,
			d.Features&mmio.FeatureEventIdx != 0, d.Features&mmio.FeatureIndirectDesc != 0)
		d.SetQueue(uint32(i), r)
		d.Queues = append(d.Queues, &Queue{Ring: r, d: d, index: uint32(i), requests: map[uint16]*Request{}})
	}
	d.Set(mmio.Status, start|mmio.StatusFeaturesOK|mmio.StatusDriverOK)
	if s := d.Get(mmio.Status); s != start|mmio.StatusFeaturesOK|mmio.StatusDriverOK {
		d.tb.Fatalf("status is %#x after DRIVER_OK", s)
	}
}

// Reset resets the device.
func (d *Driver) Reset() { d.Set(mmio.Status, 0) }

func (d *Driver) offered() uint64 {
	d.Set(mmio.DeviceFeaturesSel, 0)
	f := uint64(d.Get(mmio.DeviceFeatures))
	d.Set(mmio.DeviceFeaturesSel, 1)
	return f | uint64(d.Get(mmio.DeviceFeatures))<<32
}

// Negotiate accepts features and sets FEATURES_OK.
func (d *Driver) Negotiate(features uint64) {
	d.Features = features
	d.Set(mmio.DriverFeaturesSel, 0)
	d.Set(mmio.DriverFeatures, uint32(features))
	d.Set(mmio.DriverFeaturesSel, 1)
	d.Set(mmio.DriverFeatures, uint32(features>>32))
	d.Set(mmio.Status, d.Get(mmio.Status)|mmio.StatusFeaturesOK)
}

// SetQueue sets queue i up and makes it ready.
func (d *Driver) SetQueue(i uint32, r *Ring) {
	d.Set(mmio.QueueSel, i)
	d.Set(mmio.QueueNum, uint32(r.Config.Size))
	for reg, addr := range map[uint64]uint64{
		mmio.QueueDescLow:   r.Config.Desc,
		mmio.QueueDriverLow: r.Config.Driver,
		mmio.QueueDeviceLow: r.Config.Device,
	} {
		d.Set(reg, uint32(addr))
		d.Set(reg+4, uint32(addr>>32))
	}
	d.Set(mmio.QueueReady, 1)
}

// Get reads a register.
func (d *Driver) Get(reg uint64) uint32 {
	var b [4]byte
	d.Transport.Read(reg, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Set writes a register.
func (d *Driver) Set(reg uint64, v uint32) {
	d.Transport.Write(reg, binary.LittleEndian.AppendUint32(nil, v))
}

// Config returns n bytes of the configuration space.
func (d *Driver) Config(offset uint64, n int) []byte {
	p := make([]byte, n)
	d.Transport.Read(mmio.Config+offset, p)
	return p
}

// Alloc returns the address of n bytes of low memory, page-aligned if n is a
// page or more and aligned to 16 bytes otherwise. They are never freed.
func (d *Driver) Alloc(n uint64) uint64 {
	align := uint64(16)
	if n >= guestmem.PageSize {
		align = guestmem.PageSize
	}
	addr := (d.next + align - 1) &^ (align - 1)
	if _, err := d.Mem.Slice(addr, n); err != nil {
		panic(fmt.Sprintf("virtiotest: out of guest memory: %v", err))
	}
	d.next = addr + n
	return addr
}

func (d *Driver) handleInterrupt() {
	isr := d.Get(mmio.InterruptStatus)
	d.Set(mmio.InterruptACK, isr)
	d.mu.Lock()
	defer d.mu.Unlock()
	if isr&mmio.InterruptConfigChange != 0 {
		d.config++
	}
	close(d.interrupt)
	d.interrupt = make(chan struct{})
}

// ConfigInterrupts returns how many configuration change interrupts there
// were.
func (d *Driver) ConfigInterrupts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// Until waits, from one interrupt to the next, until cond holds, or fails the
// test.
func (d *Driver) Until(what string, cond func() bool) {
	d.tb.Helper()
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for {
		d.mu.Lock()
		interrupt := d.interrupt
		d.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-interrupt:
		case <-timeout.C:
			d.tb.Fatalf("no interrupt while waiting for %s", what)
		}
	}
}

// UntilNeedsReset waits for DEVICE_NEEDS_RESET.
func (d *Driver) UntilNeedsReset() {
	d.tb.Helper()
	d.Until("DEVICE_NEEDS_RESET", func() bool { return d.Get(mmio.Status)&mmio.StatusDeviceNeedsReset != 0 })
}
