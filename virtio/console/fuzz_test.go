package console_test

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
)

// FuzzConsole sends the script's control messages on well-formed queues. The
// device has to fail at the first wrong one and at no other, and to say
// nothing but what section 5.3.6.2 knows.
func FuzzConsole(f *testing.F) {
	f.Add(control(^uint32(0), deviceReady, 1))
	f.Add(append(control(0, deviceReady, 1), append(control(0, portReady, 1), control(1, portOpen, 1)...)...))
	f.Add(append(control(7, portReady, 1), control(1, portAdd, 1)...))
	f.Add(append(control(1, portReady, 1), 1, 2, 3))
	f.Fuzz(func(t *testing.T, script []byte) {
		d := console.New(
			console.Port{Console: true, In: strings.NewReader("console"), Out: io.Discard},
			console.Port{Name: "name", In: strings.NewReader("input")},
		)
		g := start(t, d, virtiotest.Options{MemoryBytes: 256 << 10})
		for range 32 {
			g.Queues[2].Submit(nil, 64)
			g.Queues[4].Submit(nil, 64)
		}
		s := virtiotest.NewScript(script)
		for s.Len() > 0 {
			b := s.Bytes(8)
			wrong := len(b) < 8
			if !wrong {
				event := binary.LittleEndian.Uint16(b[4:])
				wrong = (event == portReady || event == portOpen) && binary.LittleEndian.Uint32(b) > 1
			}
			g.Queues[3].Submit([][]byte{b})
			g.Until("control transmitq", func() bool {
				return g.Queues[3].ArmInterrupt() || g.Get(mmio.Status)&mmio.StatusDeviceNeedsReset != 0
			})
			if done := g.Queues[3].Done(); wrong != (done == nil) {
				t.Fatalf("message %x taken: %v", b, done != nil)
			} else if wrong {
				break
			} else {
				done.Free()
			}
			for r := g.Queues[2].Done(); r != nil; r = g.Queues[2].Done() {
				m := r.Data()
				id := binary.LittleEndian.Uint32(m)
				switch event := binary.LittleEndian.Uint16(m[4:]); {
				case id > 1:
					t.Fatalf("message about port %d", id)
				case event == portAdd, event == portOpen, event == portName && id == 1, event == consolePort && id == 0:
				default:
					t.Fatalf("message %q", text(m))
				}
				g.Queues[2].Submit(nil, 64)
			}
		}
	})
}
