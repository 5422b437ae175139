package mmio_test

import (
	"errors"
	"testing"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
)

// FuzzTransport accesses registers as the script says. The status has to stay
// one of the specification's, the device active only with DRIVER_OK, and a
// reset has to repair all.
func FuzzTransport(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0x1c, 1, 0, 0, 0, 0, 0x1c, 3, 0, 0, 0})
	f.Add([]byte{3, 3, 0, 3, 1, 3, 2, 3, 3, 4, 5})
	f.Add([]byte{3, 3, 0, 0x0e, 9, 0, 0, 0, 0, 0x11, 1, 0, 0, 0})
	f.Add([]byte{2, 1, 0x70, 0, 0xff, 2, 8, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, script []byte) {
		dev := &device{}
		d := virtiotest.New(t, dev, virtiotest.Options{MemoryBytes: 64 << 10})
		s := virtiotest.NewScript(script)
		for s.Len() > 0 {
			switch s.Below(6) {
			case 0:
				d.Set(s.Uint(1)*4, uint32(s.Uint(4)))
			case 1:
				d.Get(s.Uint(1) * 4)
			case 2:
				p := append([]byte(nil), s.Bytes(s.Below(10))...)
				offset := s.Uint(2)
				d.Transport.Write(offset, p)
				d.Transport.Read(offset, p)
			case 3: // a step ahead
				steps := []uint32{ack, negotiating, negotiated, running}
				next := steps[s.Below(len(steps))]
				if next == negotiated {
					d.Set(mmio.DriverFeaturesSel, 1)
					d.Set(mmio.DriverFeatures, 1)
				}
				d.Set(mmio.Status, next)
			case 4:
				d.SetQueue(uint32(s.Below(3)), virtiotest.NewRing(d.Mem, 0x1000, 8, false, false))
			case 5:
				if a := dev.active(); a != nil {
					switch s.Below(3) {
					case 0:
						a.Fail(errors.New("test"))
					case 1:
						a.ConfigChanged()
					case 2:
						a.Queues[0].Interrupt()
					}
				}
			}
			status := d.Get(mmio.Status)
			switch status &^ (needsReset | failed) {
			case 0, ack, negotiating, negotiated:
				if dev.active() != nil {
					t.Fatalf("active with status %#x", status)
				}
			case running:
				if (dev.active() != nil) != (status&failed == 0) {
					t.Fatalf("active %v with status %#x", dev.active() != nil, status)
				}
			default:
				t.Fatalf("status %#x", status)
			}
		}
		d.Init()
		if dev.active() == nil || d.Get(mmio.InterruptStatus) != 0 {
			t.Fatal("not usable after a reset")
		}
	})
}
