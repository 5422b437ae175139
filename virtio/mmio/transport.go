// Package mmio is the virtio-over-MMIO transport, version 2 (virtio 1.2,
// section 4.2): the registers, the status machine, feature negotiation and
// queue set-up, once for all devices.
//
// What a driver does wrong before DRIVER_OK is ignored where that leaves a
// device it can still set up, and is a failure otherwise; a failure sets
// DEVICE_NEEDS_RESET and stops the queues until the driver resets the device.
package mmio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/internal/logging"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

// Transport is one device on the bus. Its methods may be called concurrently.
type Transport struct {
	dev       virtio.Device
	mem       *guestmem.Memory
	irq       *eventfd.EventFD
	log       *logging.Limited
	offered   uint64 // features
	notifiers []*eventfd.EventFD

	generation atomic.Uint32
	faults     atomic.Uint64
	onFailure  atomic.Pointer[func(error)]

	// active is what runs between DRIVER_OK and reset. Interrupts go through
	// it, so that one from a goroutine that outlived its activation is lost.
	active atomic.Pointer[activation]

	// mu also makes the calls of the device come one at a time. Nothing that
	// a device calls may take it.
	mu                sync.Mutex
	status            uint32 // without DEVICE_NEEDS_RESET
	broken            bool   // DEVICE_NEEDS_RESET, when nothing is active
	closed            bool
	deviceFeaturesSel uint32
	driverFeaturesSel uint32
	driverFeatures    uint64
	badFeatures       bool // the driver set bits past the 64th
	queueSel          uint32
	queues            []queue
}

// queue is the set-up of one virtqueue.
type queue struct {
	max                  uint16
	size                 uint16
	desc, driver, device uint64
	ready                *virtqueue.Queue // nil while QueueReady is 0
}

// New makes the transport of dev in its reset state. It signals irq to
// interrupt the guest; irq stays the caller's.
func New(dev virtio.Device, mem *guestmem.Memory, irq *eventfd.EventFD, log *slog.Logger) (*Transport, error) {
	t := &Transport{
		dev:     dev,
		mem:     mem,
		irq:     irq,
		log:     logging.NewLimited(log.With("device", dev.DeviceID())),
		offered: dev.Features() | FeatureVersion1 | FeatureEventIdx | FeatureIndirectDesc,
	}
	for i, size := range dev.QueueSizes() {
		if size == 0 || size > virtqueue.MaxSize || size&(size-1) != 0 {
			err := fmt.Errorf("virtio device %d: queue %d of %d entries", dev.DeviceID(), i, size)
			return nil, errors.Join(err, t.Close())
		}
		kick, err := eventfd.New()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("virtio device %d: %w", dev.DeviceID(), err), t.Close())
		}
		t.notifiers = append(t.notifiers, kick)
		t.queues = append(t.queues, queue{max: size, size: size})
	}
	return t, nil
}

// Notifiers returns the doorbell of each queue: what a write of the queue's
// index to QueueNotify signals. They are closed by Close.
func (t *Transport) Notifiers() []*eventfd.EventFD { return slices.Clone(t.notifiers) }

// Faults returns how often the driver broke a rule.
func (t *Transport) Faults() uint64 { return t.faults.Load() }

// OnFailure makes every later failure call f as well, which must not block.
func (t *Transport) OnFailure(f func(error)) { t.onFailure.Store(&f) }

// Close resets the device, for good, and closes the notifiers.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.reset()
	t.closed = true
	var errs []error
	for _, n := range t.notifiers {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// Read fills p from the registers at offset. What is not there, or not
// accessed by its width, reads as zero.
func (t *Transport) Read(offset uint64, p []byte) {
	clear(p)
	if offset >= Config {
		if offset < WindowSize {
			t.mu.Lock()
			defer t.mu.Unlock()
			if !t.closed {
				t.dev.ReadConfig(offset-Config, p)
			}
		}
		return
	}
	if len(p) != 4 || offset%4 != 0 {
		t.fault("read of a register", "offset", offset, "width", len(p))
		return
	}
	binary.LittleEndian.PutUint32(p, t.read(offset))
}

func (t *Transport) read(offset uint64) uint32 {
	switch offset {
	case InterruptStatus:
		if a := t.active.Load(); a != nil {
			return a.isr.Load()
		}
		return 0
	case ConfigGeneration:
		return t.generation.Load()
	case MagicValue:
		return magic
	case Version:
		return version
	case DeviceID:
		return t.dev.DeviceID()
	case VendorID:
		return vendor
	case SHMLenLow, SHMLenHigh, SHMBaseLow, SHMBaseHigh:
		return ^uint32(0) // no such region
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	switch offset {
	case DeviceFeatures:
		if t.deviceFeaturesSel > 1 {
			return 0
		}
		return uint32(t.offered >> (32 * t.deviceFeaturesSel))
	case Status:
		if t.needsReset() {
			return t.status | StatusDeviceNeedsReset
		}
		return t.status
	case QueueNumMax:
		if q := t.selected(); q != nil {
			return uint32(q.max)
		}
	case QueueReady:
		if q := t.selected(); q != nil && q.ready != nil {
			return 1
		}
	}
	return 0
}

// Write stores p into the registers at offset. What is not there, or not
// accessed by its width, is ignored.
func (t *Transport) Write(offset uint64, p []byte) {
	if offset >= Config {
		if offset < WindowSize {
			t.mu.Lock()
			defer t.mu.Unlock()
			if !t.closed && !t.needsReset() {
				t.dev.WriteConfig(offset-Config, p)
			}
		}
		return
	}
	if len(p) != 4 || offset%4 != 0 {
		t.fault("write of a register", "offset", offset, "width", len(p))
		return
	}
	t.write(offset, binary.LittleEndian.Uint32(p))
}

func (t *Transport) write(offset uint64, v uint32) {
	switch offset {
	case QueueNotify:
		// Reached when there is no ioeventfd for v.
		if v < uint32(len(t.notifiers)) {
			t.signal(t.notifiers[v])
			return
		}
		t.fault("notification of a queue that is not there", "queue", v)
		return
	case InterruptACK:
		if a := t.active.Load(); a != nil {
			a.isr.And(^v)
		}
		return
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	switch offset {
	case Status:
		t.writeStatus(v)
	case DeviceFeaturesSel:
		t.deviceFeaturesSel = v
	case DriverFeaturesSel:
		t.driverFeaturesSel = v
	case DriverFeatures:
		t.writeFeatures(v)
	case QueueSel:
		t.queueSel = v
	case QueueNum, QueueReady,
		QueueDescLow, QueueDescHigh, QueueDriverLow, QueueDriverHigh, QueueDeviceLow, QueueDeviceHigh:
		t.writeQueue(offset, v)
	case SHMSel:
	default:
		t.fault("write of a register that is not there", "offset", offset)
	}
}

func (t *Transport) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	v &^= StatusDeviceNeedsReset // read back by a driver that adds a bit
	switch {
	case v == t.status:
	case v == t.status|StatusFailed:
		t.deactivate()
		t.status = v
	case t.needsReset():
		t.fault("status written to a device that needs a reset", "to", v)
	case !legalTransition(t.status, v):
		t.fail(fmt.Errorf("status set from %#x to %#x", t.status, v))
	case v == statusNegotiated:
		if err := t.checkFeatures(); err != nil {
			t.fault("feature negotiation", "err", err)
			return // the driver finds FEATURES_OK not set
		}
		t.status = v
	case v == statusRunning:
		t.status = v
		t.activate()
	default:
		t.status = v
	}
}

func (t *Transport) writeFeatures(v uint32) {
	if t.status != statusNegotiating {
		t.fault("features written out of turn", "status", t.status)
		return
	}
	switch sel := t.driverFeaturesSel; sel {
	case 0:
		t.driverFeatures = t.driverFeatures&^0xffffffff | uint64(v)
	case 1:
		t.driverFeatures = t.driverFeatures&0xffffffff | uint64(v)<<32
	default:
		t.badFeatures = t.badFeatures || v != 0
	}
}

func (t *Transport) checkFeatures() error {
	switch {
	case t.badFeatures || t.driverFeatures&^t.offered != 0:
		return fmt.Errorf("driver accepts %#x of %#x", t.driverFeatures, t.offered)
	case t.driverFeatures&FeatureVersion1 == 0:
		return errors.New("driver does not accept VIRTIO_F_VERSION_1")
	}
	return nil
}

// selected returns the queue of QueueSel, or nil.
func (t *Transport) selected() *queue {
	if t.queueSel >= uint32(len(t.queues)) {
		return nil
	}
	return &t.queues[t.queueSel]
}

func (t *Transport) writeQueue(offset uint64, v uint32) {
	q := t.selected()
	switch {
	case t.status&StatusDriverOK != 0:
		t.fail(fmt.Errorf("queue %d set up after DRIVER_OK", t.queueSel))
		return
	case offset == QueueReady && v == 0:
		// A driver may take a queue down again, and does so after a reset.
		if q != nil {
			q.ready = nil
		}
		return
	case q == nil || t.status != statusNegotiated || t.needsReset():
		t.fault("queue set up out of turn", "queue", t.queueSel, "status", t.status)
		return
	case q.ready != nil:
		t.fail(fmt.Errorf("queue %d set up while ready", t.queueSel))
		return
	}
	switch offset {
	case QueueNum:
		if v == 0 || v > uint32(q.max) {
			t.fail(fmt.Errorf("queue %d of %d entries, at most %d", t.queueSel, v, q.max))
			return
		}
		q.size = uint16(v)
	case QueueReady:
		ready, err := virtqueue.New(t.mem, t.queueConfig(q))
		if err != nil {
			t.fail(fmt.Errorf("queue %d: %w", t.queueSel, err))
			return
		}
		q.ready = ready
	case QueueDescLow:
		setLow(&q.desc, v)
	case QueueDescHigh:
		setHigh(&q.desc, v)
	case QueueDriverLow:
		setLow(&q.driver, v)
	case QueueDriverHigh:
		setHigh(&q.driver, v)
	case QueueDeviceLow:
		setLow(&q.device, v)
	case QueueDeviceHigh:
		setHigh(&q.device, v)
	}
}

// queueConfig is what the driver has set up of a queue.
func (t *Transport) queueConfig(q *queue) virtqueue.Config {
	return virtqueue.Config{
		Size:     q.size,
		Desc:     q.desc,
		Driver:   q.driver,
		Device:   q.device,
		EventIdx: t.driverFeatures&FeatureEventIdx != 0,
		Indirect: t.driverFeatures&FeatureIndirectDesc != 0,
	}
}

func setLow(p *uint64, v uint32)  { *p = *p&^0xffffffff | uint64(v) }
func setHigh(p *uint64, v uint32) { *p = *p&0xffffffff | uint64(v)<<32 }

// fault counts and logs a broken rule that had no consequence.
func (t *Transport) fault(msg string, args ...any) {
	t.faults.Add(1)
	t.log.Warn(msg, args...)
}

func (t *Transport) signal(e *eventfd.EventFD) {
	// The error of a closed eventfd comes with the end of the VM.
	if err := e.Signal(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.log.Warn("eventfd", "err", err)
	}
}
