package console

import (
	"errors"

	"runv.dev/runv/virtio"
)

var _ virtio.Stateful = (*Device)(nil)

// What is known of a port, one byte each.
const (
	stateReady = 1 << 0 // the driver has it
	stateOpen  = 1 << 1 // the guest has it open
)

// SaveState implements virtio.Stateful.
func (d *Device) SaveState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := make([]byte, len(d.ports))
	for i, p := range d.ports {
		if d.control.ports[i].ready {
			b[i] |= stateReady
		}
		p.mu.Lock()
		if p.isOpen {
			b[i] |= stateOpen
		}
		p.mu.Unlock()
	}
	return b, nil
}

// RestoreState implements virtio.Stateful.
func (d *Device) RestoreState(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(b) != len(d.ports) {
		return errors.New("console: the state is of a device with other ports")
	}
	d.restored = append([]byte(nil), b...)
	return nil
}
