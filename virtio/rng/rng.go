// Package rng is the virtio entropy device (virtio 1.2, section 5.4).
package rng

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	deviceID  = 4
	queueSize = 64

	// maxRequest bounds the bytes given for one request: far above what a
	// kernel asks for, and low enough that a reset never waits. Using less
	// than the whole buffer is allowed (section 5.4.6.2).
	maxRequest = 64 << 10
)

// Device is an entropy device. What it costs is CPU time, which the caller
// limits as that of the vCPUs; the source is not one that runs dry.
type Device struct {
	source io.Reader

	mu   sync.Mutex
	stop func() // nil when not active
}

// New makes a device that gives what it reads from source, which must not
// block: crypto/rand.Reader.
func New(source io.Reader) *Device { return &Device{source: source} }

// DeviceID implements virtio.Device.
func (d *Device) DeviceID() uint32 { return deviceID }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device: there is no configuration.
func (d *Device) ReadConfig(_ uint64, p []byte) { clear(p) }

// WriteConfig implements virtio.Device: there is no configuration.
func (d *Device) WriteConfig(uint64, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		return errors.New("rng: active already")
	}
	if a.Queues[0].Queue == nil {
		return errors.New("rng: queue not enabled")
	}
	d.stop = a.ServeAll([]func(*virtqueue.Chain) (uint32, error){d.fill}, func(_ int, err error) {
		a.Fail(fmt.Errorf("rng: %w", err))
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
	}
}

// fill answers one request.
func (d *Device) fill(c *virtqueue.Chain) (uint32, error) {
	if len(c.Readable) != 0 {
		return 0, errors.New("readable buffer on the request queue")
	}
	w := virtqueue.NewWriter(c.Writable)
	for w.Written() < maxRequest {
		b := w.Next(maxRequest - int(w.Written()))
		if b == nil {
			break
		}
		if _, err := io.ReadFull(d.source, b); err != nil {
			return 0, fmt.Errorf("source: %w", err)
		}
	}
	return w.Written(), nil
}
