// Package virtio is what virtio devices and the transport that carries them
// agree on (Virtual I/O Device, version 1.2).
package virtio

import (
	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio/virtqueue"
)

// Device is one virtio device, apart from its transport. The transport calls
// every method from one goroutine at a time.
type Device interface {
	// DeviceID is the device type of section 5.
	DeviceID() uint32

	// Features are the device-specific feature bits. The transport adds
	// VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC.
	Features() uint64

	// QueueSizes has the maximum size of each virtqueue, in entries.
	QueueSizes() []uint16

	// ReadConfig fills p from the configuration space; what lies outside of
	// it reads as zero.
	ReadConfig(offset uint64, p []byte)

	// WriteConfig stores p into the configuration space; what lies outside of
	// it, or is not writable, is ignored.
	WriteConfig(offset uint64, p []byte)

	// Activate starts the device once the driver has set DRIVER_OK. It must
	// not block: it runs on a vCPU's thread.
	Activate(Activation) error

	// Reset stops all that Activate started and forgets the activation. It
	// may be called at any time, repeatedly, and waits a bounded time only.
	Reset()
}

// Activation is what the transport hands to an activated device.
type Activation struct {
	Mem      *guestmem.Memory
	Features uint64 // as negotiated
	Queues   []ActiveQueue

	// ConfigChanged sends a configuration change notification.
	ConfigChanged func()

	// Fail reports that the driver broke the rules: it sets
	// DEVICE_NEEDS_RESET, and the device is expected to stop.
	Fail func(error)
}

// ActiveQueue is a virtqueue with its notifications in both directions. The
// Queue of a virtqueue that the driver did not enable is nil.
type ActiveQueue struct {
	*virtqueue.Queue

	Kick      *eventfd.EventFD // the driver's available buffer notification
	Interrupt func()           // the device's used buffer notification
}
