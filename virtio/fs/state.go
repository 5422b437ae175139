package fs

import (
	"errors"

	"runv.dev/runv/virtio"
)

var _ virtio.Stateful = (*Device)(nil)

// The first byte of a saved state says whether there is a session, of which the
// others are the state.
const (
	stateNone    = 0
	stateSession = 1
)

// SaveState implements virtio.Stateful. It fails with passthrough.ErrUnsaved for
// a session with an open file that cannot be found again.
func (d *Device) SaveState() ([]byte, error) {
	if !d.server.ready.Load() {
		return []byte{stateNone}, nil
	}
	b, err := d.fs.Save()
	return append([]byte{stateSession}, b...), err
}

// RestoreState implements virtio.Stateful: the session goes on with this share.
func (d *Device) RestoreState(b []byte) error {
	switch {
	case len(b) == 1 && b[0] == stateNone:
		return nil
	case len(b) > 1 && b[0] == stateSession:
		if err := d.fs.Restore(b[1:]); err != nil {
			return err
		}
		d.server.ready.Store(true)
		return nil
	}
	return errors.New("fs: the state is of another kind of device")
}
