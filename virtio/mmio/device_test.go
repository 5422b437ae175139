package mmio_test

import (
	"sync"

	"runv.dev/runv/virtio"
)

const deviceFeatures = 1<<3 | 1<<40

// device records what the transport asks of it and does nothing by itself.
type device struct {
	mu          sync.Mutex
	activation  *virtio.Activation
	activations int
	resets      int
	activateErr error
	config      [16]byte
}

func (d *device) DeviceID() uint32     { return 42 }
func (d *device) Features() uint64     { return deviceFeatures }
func (d *device) QueueSizes() []uint16 { return []uint16{8, 16} }

func (d *device) ReadConfig(offset uint64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(p)
	if offset < uint64(len(d.config)) {
		copy(p, d.config[offset:])
	}
}

func (d *device) WriteConfig(offset uint64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if offset < uint64(len(d.config)) {
		copy(d.config[offset:], p)
	}
}

func (d *device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.activation = &a
	d.activations++
	return d.activateErr
}

func (d *device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.activation = nil
	d.resets++
}

func (d *device) active() *virtio.Activation {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.activation
}
