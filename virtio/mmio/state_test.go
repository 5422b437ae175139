package mmio_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
)

// stateful is a device with a state of its own.
type stateful struct {
	device
	state    []byte
	restored []byte
	order    string
	unsaved  error // why it cannot be saved
}

func (d *stateful) SaveState() ([]byte, error) { return d.state, d.unsaved }

func (d *stateful) RestoreState(b []byte) error {
	d.restored = b
	d.order = "restored before it was active"
	if d.active() != nil {
		d.order = "restored too late"
	}
	return nil
}

func TestSaveRestore(t *testing.T) {
	old := &stateful{state: []byte("state")}
	d := virtiotest.Start(t, old, virtiotest.Options{Refuse: 1 << 40})
	d.Set(mmio.QueueSel, 1)
	a := old.active()
	a.ConfigChanged()
	d.Until("the interrupt", func() bool { return d.ConfigInterrupts() == 1 })
	before := d.Get(mmio.ConfigGeneration)

	dev := &stateful{}
	n := d.Migrate(dev)
	if old.active() != nil || d.Get(mmio.Status)&mmio.StatusDeviceNeedsReset == 0 {
		t.Error("the saved device goes on")
	}
	a.Queues[0].Interrupt()
	a.Fail(nil)
	if got := dev.active(); got == nil || got.Features != a.Features || got.Queues[0].Queue == nil || got.Queues[1].Size() != 16 {
		t.Errorf("activated with %+v", got)
	}
	if string(dev.restored) != "state" || dev.order != "restored before it was active" {
		t.Errorf("the device's state is %q, %s", dev.restored, dev.order)
	}
	if n.Get(mmio.Status) != running || n.Get(mmio.ConfigGeneration) != before || n.Get(mmio.InterruptStatus) != 0 {
		t.Errorf("status %#x, generation %d", n.Get(mmio.Status), n.Get(mmio.ConfigGeneration))
	}
	if n.Get(mmio.QueueReady) != 1 || n.Get(mmio.QueueNumMax) != 16 {
		t.Error("the selected queue is another one")
	}
	// It is a device as any other: a driver can begin anew.
	n.Init()
	if dev.active() == nil {
		t.Error("not active after a reset")
	}
}

// TestRestoreBad: what no driver can have set up is refused, and leaves a device
// in its reset state.
func TestRestoreBad(t *testing.T) {
	good := func(t *testing.T) *mmio.State {
		t.Helper()
		d := virtiotest.Start(t, &device{}, virtiotest.Options{})
		s, err := d.Transport.Save()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tc := range []struct {
		name   string
		change func(*mmio.State)
		want   string
	}{
		{"device", func(s *mmio.State) { s.DeviceID++ }, "another device"},
		{"features", func(s *mmio.State) { s.Offered ^= 1 << 50 }, "another device"},
		{"queues", func(s *mmio.State) { s.Queues = s.Queues[:1] }, "another device"},
		{"status", func(s *mmio.State) { s.Status = mmio.StatusDriverOK }, "status"},
		{"reset status bits", func(s *mmio.State) { s.Status |= mmio.StatusDeviceNeedsReset }, "status"},
		{"interrupts", func(s *mmio.State) { s.Interrupts = 4 }, "interrupt status"},
		{"accepted", func(s *mmio.State) { s.Accepted |= 1 << 60 }, "accepts"},
		{"version 1", func(s *mmio.State) { s.Accepted &^= mmio.FeatureVersion1 }, "VERSION_1"},
		{"size 0", func(s *mmio.State) { s.Queues[0].Size = 0 }, "entries"},
		{"large", func(s *mmio.State) { s.Queues[0].Size = 16 }, "entries"},
		{"maximum", func(s *mmio.State) { s.Queues[0].Max = 16 }, "entries"},
		{"address", func(s *mmio.State) { s.Queues[0].Desc = 1 << 40 }, "out of range"},
		{"too early", func(s *mmio.State) { s.Status = mmio.StatusAcknowledge }, "before the features"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := good(t)
			tc.change(s)
			dev := &device{}
			d := virtiotest.New(t, dev, virtiotest.Options{})
			if err := d.Transport.Restore(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Restore: %v; want %q", err, tc.want)
			}
			if dev.active() != nil || d.Get(mmio.Status) != 0 {
				t.Error("something is left of it")
			}
			d.Init()
		})
	}
}

// TestFreeze: the state is that of Save, the device goes on, and who goes on from
// the state is interrupted.
func TestFreeze(t *testing.T) {
	old := &stateful{state: []byte("state")}
	d := virtiotest.Start(t, old, virtiotest.Options{})
	frozen, thaw, err := d.Transport.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	popped := make(chan error)
	go func() {
		_, _, err := old.active().Queues[0].Pop()
		popped <- err
	}()
	select {
	case <-popped:
		t.Error("a frozen queue is used")
	default:
	}
	thaw()
	if err := <-popped; err != nil {
		t.Error(err)
	}
	if old.active() == nil || d.Get(mmio.Status) != running {
		t.Errorf("status %#x after the thaw", d.Get(mmio.Status))
	}
	// A device that refuses goes on.
	old.unsaved = errors.New("not now")
	if _, _, err := d.Transport.Freeze(); !errors.Is(err, old.unsaved) {
		t.Errorf("a device that refuses: %v", err)
	}
	old.unsaved = nil
	if _, _, err := old.active().Queues[0].Pop(); err != nil {
		t.Errorf("a queue of a device that was not frozen: %v", err)
	}
	saved, err := d.Transport.Save()
	if err != nil {
		t.Fatal(err)
	}
	if frozen.Interrupts&mmio.InterruptUsedBuffer == 0 {
		t.Error("no interrupt for who goes on")
	}
	frozen.Interrupts = saved.Interrupts
	if !reflect.DeepEqual(frozen, saved) {
		t.Errorf("frozen %+v; saved %+v", frozen, saved)
	}
	if _, _, err := d.Transport.Freeze(); err == nil {
		t.Error("a device that was saved is frozen")
	}
}
