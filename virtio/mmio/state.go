package mmio

import (
	"errors"
	"fmt"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

// ErrBusy is what Freeze fails with while the device is at work.
var ErrBusy = virtqueue.ErrBusy

// State is a transport and its device between two accesses of the driver, with
// nothing under way.
type State struct {
	DeviceID   uint32
	Offered    uint64 // features
	Accepted   uint64 // features
	Status     uint32
	DeviceSel  uint32 // feature word
	DriverSel  uint32 // feature word
	QueueSel   uint32
	Generation uint32
	Interrupts uint32 // InterruptStatus
	Queues     []QueueState
	Device     []byte // of a virtio.Stateful
}

// QueueState is the set-up of a queue, and where it stands.
type QueueState struct {
	Max, Size            uint16
	Desc, Driver, Device uint64
	Ready                bool
	Index                uint16
}

// Progress appends a number for each queue that is in use. It changes whenever
// the device takes or uses a chain.
func (t *Transport) Progress(list []uint32) []uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.queues {
		if q.ready != nil {
			list = append(list, q.ready.Progress())
		}
	}
	return list
}

// Save ends the device, also if it fails, and says how a transport of an equal
// device goes on by Restore. The guest must not run, and the device must not be at
// work.
func (t *Transport) Save() (*State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.describe()
	if err != nil {
		return nil, err
	}
	// From here on the device can neither interrupt nor fail.
	t.broken = true
	if a := t.active.Swap(nil); a != nil {
		defer t.dev.Reset()
		s.Interrupts = a.isr.Load()
		if err := t.saveDevice(s); err != nil {
			return nil, err
		}
	}
	for i, q := range t.queues {
		if q.ready == nil {
			continue
		}
		if s.Queues[i].Index, err = q.ready.Save(); err != nil {
			return nil, fmt.Errorf("virtio device %d: queue %d: %w", s.DeviceID, i, err)
		}
	}
	return s, nil
}

// Freeze is Save of a device that goes on when thaw is called: until then it
// neither takes nor uses a buffer. The guest must not run. The error is
// ErrBusy while the device is at work; after an error it goes on.
func (t *Transport) Freeze() (_ *State, thaw func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.describe()
	if err != nil {
		return nil, nil, err
	}
	var frozen []*virtqueue.Queue
	// Without t.mu, which who closes the transport holds.
	undo := func() {
		for _, q := range frozen {
			q.Thaw()
		}
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	a := t.active.Load()
	if a == nil {
		return s, undo, nil
	}
	var before []uint32
	for _, q := range a.queues {
		before = append(before, q.Progress())
	}
	if err := t.saveDevice(s); err != nil {
		return nil, nil, err
	}
	for i, q := range t.queues {
		if q.ready == nil {
			continue
		}
		if s.Queues[i].Index, err = q.ready.Freeze(); err != nil {
			return nil, nil, fmt.Errorf("virtio device %d: queue %d: %w", s.DeviceID, i, err)
		}
		frozen = append(frozen, q.ready)
		// The device's own state was read before.
		if s.Queues[i].Index != uint16(before[len(frozen)-1]) {
			return nil, nil, fmt.Errorf("virtio device %d: queue %d: %w", s.DeviceID, i, virtqueue.ErrBusy)
		}
	}
	// One may be on its way. One too many does not matter.
	s.Interrupts = a.isr.Load() | InterruptUsedBuffer
	return s, undo, nil
}

// describe is the state without what the device and its queues know. The caller
// holds t.mu.
func (t *Transport) describe() (*State, error) {
	if t.closed || t.needsReset() || t.badFeatures {
		return nil, fmt.Errorf("virtio device %d: closed or broken", t.dev.DeviceID())
	}
	s := &State{
		DeviceID:   t.dev.DeviceID(),
		Offered:    t.offered,
		Accepted:   t.driverFeatures,
		Status:     t.status,
		DeviceSel:  t.deviceFeaturesSel,
		DriverSel:  t.driverFeaturesSel,
		QueueSel:   t.queueSel,
		Generation: t.generation.Load(),
		Queues:     make([]QueueState, len(t.queues)),
	}
	for i, q := range t.queues {
		s.Queues[i] = QueueState{
			Max: q.max, Size: q.size, Desc: q.desc, Driver: q.driver, Device: q.device, Ready: q.ready != nil,
		}
	}
	return s, nil
}

func (t *Transport) saveDevice(s *State) (err error) {
	if d, ok := t.dev.(virtio.Stateful); ok {
		if s.Device, err = d.SaveState(); err != nil {
			err = fmt.Errorf("virtio device %d: %w", s.DeviceID, err)
		}
	}
	return err
}

// Restore puts a new transport into a saved state, before the guest runs. The
// memory is that of the state.
func (t *Transport) Restore(s *State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.restore(s); err != nil {
		t.reset()
		return fmt.Errorf("virtio device %d: %w", t.dev.DeviceID(), err)
	}
	return nil
}

func (t *Transport) restore(s *State) error {
	switch {
	case t.closed || t.status != 0:
		return errors.New("restored twice")
	case s.DeviceID != t.dev.DeviceID() || s.Offered != t.offered || len(s.Queues) != len(t.queues):
		return fmt.Errorf("the state is of another device: type %d, features %#x, %d queues", s.DeviceID, s.Offered, len(s.Queues))
	case !knownStatus(s.Status):
		return fmt.Errorf("status %#x", s.Status)
	case s.Interrupts&^(InterruptUsedBuffer|InterruptConfigChange) != 0:
		return fmt.Errorf("interrupt status %#x", s.Interrupts)
	}
	t.driverFeatures = s.Accepted
	if s.Status&StatusFeaturesOK != 0 {
		if err := t.checkFeatures(); err != nil {
			return err
		}
	}
	t.deviceFeaturesSel, t.driverFeaturesSel, t.queueSel = s.DeviceSel, s.DriverSel, s.QueueSel
	t.generation.Store(s.Generation)
	for i, from := range s.Queues {
		q := &t.queues[i]
		if from.Max != q.max || from.Size == 0 || from.Size > q.max {
			return fmt.Errorf("queue %d: %d of %d entries", i, from.Size, from.Max)
		}
		q.size, q.desc, q.driver, q.device = from.Size, from.Desc, from.Driver, from.Device
		if !from.Ready {
			continue
		}
		if s.Status&StatusFeaturesOK == 0 {
			return fmt.Errorf("queue %d: ready before the features", i)
		}
		ready, err := virtqueue.New(t.mem, t.queueConfig(q))
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		ready.Resume(from.Index)
		q.ready = ready
	}
	t.status = s.Status
	if s.Status&StatusDriverOK == 0 {
		return nil
	}
	if d, ok := t.dev.(virtio.Stateful); ok {
		if err := d.RestoreState(s.Device); err != nil {
			return err
		}
	}
	a := t.activate()
	a.isr.Or(s.Interrupts)
	if a.failed.Load() {
		return errors.New("the device does not start")
	}
	if s.Interrupts != 0 {
		t.signal(t.irq)
	}
	return nil
}

// knownStatus tells whether a driver that does nothing wrong can have set this
// status.
func knownStatus(status uint32) bool {
	if status == 0 {
		return true
	}
	for _, t := range transitions {
		if t.to == status {
			return true
		}
	}
	return false
}
