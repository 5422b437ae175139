package mmio

import (
	"fmt"
	"sync/atomic"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

// activation is the life of a device between DRIVER_OK and reset. Its methods
// are called by the device, from any goroutine and also from within Activate,
// WriteConfig and Reset, hence without Transport.mu.
type activation struct {
	t      *Transport
	queues []*virtqueue.Queue
	isr    atomic.Uint32
	failed atomic.Bool
}

func (a *activation) current() bool { return a.t.active.Load() == a }

// interrupt signals the driver, whether or not it has acknowledged the last
// interrupt: runv's own kernel does not, where InterruptStatus would tell it
// nothing new.
func (a *activation) interrupt(bit uint32) {
	if !a.current() {
		return
	}
	a.isr.Or(bit)
	a.t.signal(a.t.irq)
}

func (a *activation) usedBuffer() { a.interrupt(InterruptUsedBuffer) }

func (a *activation) configChanged() {
	if a.current() {
		a.t.generation.Add(1)
		a.interrupt(InterruptConfigChange)
	}
}

// fail implements section 2.1.2: DEVICE_NEEDS_RESET, and a configuration
// change notification.
func (a *activation) fail(err error) {
	if !a.current() || !a.failed.CompareAndSwap(false, true) {
		return
	}
	for _, q := range a.queues {
		q.Stop()
	}
	a.t.failed(err)
	a.interrupt(InterruptConfigChange)
}

// activate starts the device. The caller holds t.mu.
func (t *Transport) activate() *activation {
	a := &activation{t: t}
	va := virtio.Activation{
		Mem:           t.mem,
		Features:      t.driverFeatures,
		Queues:        make([]virtio.ActiveQueue, len(t.queues)),
		ConfigChanged: a.configChanged,
		Fail:          a.fail,
	}
	for i, q := range t.queues {
		va.Queues[i] = virtio.ActiveQueue{Queue: q.ready, Kick: t.notifiers[i], Interrupt: a.usedBuffer}
		if q.ready != nil {
			a.queues = append(a.queues, q.ready)
		}
	}
	t.active.Store(a)
	if err := t.dev.Activate(va); err != nil {
		a.fail(fmt.Errorf("activate: %w", err))
	}
	return a
}

// deactivate stops the device: first its queues and interrupts, so that
// nothing appears in the guest after it, then what it runs. The caller holds
// t.mu.
func (t *Transport) deactivate() {
	if a := t.active.Swap(nil); a != nil {
		t.broken = t.broken || a.failed.Load()
		for _, q := range a.queues {
			q.Stop()
		}
		t.dev.Reset()
	}
}

// reset implements section 2.1.2 and 4.2.3.1. The caller holds t.mu.
func (t *Transport) reset() {
	t.deactivate()
	t.status = 0
	t.broken = false
	t.deviceFeaturesSel, t.driverFeaturesSel, t.queueSel = 0, 0, 0
	t.driverFeatures, t.badFeatures = 0, false
	for i := range t.queues {
		t.queues[i] = queue{max: t.queues[i].max, size: t.queues[i].max}
	}
}

// needsReset reports whether DEVICE_NEEDS_RESET is set. The caller holds t.mu.
func (t *Transport) needsReset() bool {
	a := t.active.Load()
	return t.broken || a != nil && a.failed.Load()
}

// fail is for what the driver does wrong to the transport itself. The caller
// holds t.mu.
func (t *Transport) fail(err error) {
	if a := t.active.Load(); a != nil {
		a.fail(err)
		return
	}
	if !t.broken {
		t.broken = true
		t.failed(err)
	}
}

// failed reports a failure.
func (t *Transport) failed(err error) {
	t.fault("device needs a reset", "err", err)
	if f := t.onFailure.Load(); f != nil {
		(*f)(err)
	}
}
