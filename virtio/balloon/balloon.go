// Package balloon is the virtio memory balloon device (virtio 1.2, section 5.5)
// for one purpose: free page reporting (section 5.5.6.7). The driver tells which
// pages are free, and the host takes what is behind them.
//
// The device never asks for pages: num_pages is 0.
package balloon

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	deviceID = 5

	// FeatureReporting is VIRTIO_BALLOON_F_PAGE_REPORTING.
	FeatureReporting = 1 << 5

	// queueSize has to hold one report, which Linux makes of 32 pages.
	queueSize = 64
)

// Queues of section 5.5.2. As drivers count them, those of features that are
// not offered, statistics and hints, leave no gap.
const (
	inflateQueue = iota
	deflateQueue
	reportingQueue
)

// Device is a balloon device.
type Device struct {
	log     *slog.Logger
	warn    sync.Once
	reports atomic.Uint64

	mu        sync.Mutex
	stop      func() // nil when not active
	reporting atomic.Bool
}

// New makes a device.
func New(log *slog.Logger) *Device { return &Device{log: log} }

// Reporting tells whether the driver is going to report, and how many reports
// there were.
func (d *Device) Reporting() (reports uint64, ok bool) { return d.reports.Load(), d.reporting.Load() }

// DeviceID implements virtio.Device.
func (d *Device) DeviceID() uint32 { return deviceID }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return FeatureReporting }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize, queueSize} }

// ReadConfig implements virtio.Device: no pages are wanted, and none are in the
// balloon.
func (d *Device) ReadConfig(_ uint64, p []byte) { clear(p) }

// WriteConfig implements virtio.Device: how many pages the driver believes to
// be in the balloon matters to nobody.
func (d *Device) WriteConfig(uint64, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		return errors.New("balloon: active already")
	}
	reporting := a.Features&FeatureReporting != 0
	if reporting && a.Queues[reportingQueue].Queue == nil {
		return errors.New("balloon: no queue for reports")
	}
	handlers := []func(*virtqueue.Chain) (uint32, error){inflateQueue: pages, deflateQueue: pages}
	if reporting {
		handlers = append(handlers, func(c *virtqueue.Chain) (uint32, error) { return 0, d.report(a.Mem, c) })
	}
	d.reporting.Store(reporting)
	d.stop = a.ServeAll(handlers, func(queue int, err error) {
		a.Fail(fmt.Errorf("balloon: queue %d: %w", queue, err))
	})
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		d.stop()
		d.stop = nil
		d.reporting.Store(false)
	}
}

// pages are the numbers of pages that enter or leave the balloon. Nobody asked
// for any; those in it stay where they are.
func pages(c *virtqueue.Chain) (uint32, error) {
	if len(c.Writable) != 0 {
		return 0, errors.New("writable buffer in a list of pages")
	}
	return 0, nil
}

// report takes what is behind free pages. A host that cannot do so leaves them
// alone, which no driver may notice.
func (d *Device) report(mem *guestmem.Memory, c *virtqueue.Chain) error {
	if len(c.Readable) != 0 {
		return errors.New("readable buffer in a report")
	}
	for _, b := range c.Writable {
		if err := mem.Discard(b); err != nil {
			d.warn.Do(func() { d.log.Warn("free memory of the guest stays with it", "err", err) })
		}
	}
	d.reports.Add(1)
	return nil
}
