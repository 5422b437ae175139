package virtiotest_test

import (
	"io"
	"strings"
	"testing"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/virtio/virtiotest"
)

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// FuzzDevices plays a script to a device; its first byte says which and what
// is negotiated.
func FuzzDevices(f *testing.F) {
	for b := range byte(8) {
		f.Add([]byte{b})
		f.Add(append([]byte{b}, "\x04\x00\x01\x08request!\x01\x20\x00\x08\x00"...)) // a request, and its end
		f.Add(append([]byte{b}, "\x05\x00\x00\x01\x20\x00\x02\x00\x08\x00"...))     // a request, and a reset
		f.Add([]byte{b, 12, 0, 0xff, 0x7f, 2, 0, 3})                                // the index jumps
		f.Add([]byte{b, 9, 0, 0, 0, 3, 0, 1, 0, 0, 3, 0, 11, 0, 0})                 // a cycle
		f.Add([]byte{b, 10, 0, 1, 3, 0, 1, 0, 0, 3, 4, 0, 0, 16, 14, 0})            // nested indirect
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		s := virtiotest.NewScript(script)
		kind := s.Uint(1)
		var opt virtiotest.Options
		if kind&2 != 0 {
			opt.Refuse |= mmio.FeatureEventIdx
		}
		if kind&4 != 0 {
			opt.Refuse |= 1 << 1 // VIRTIO_CONSOLE_F_MULTIPORT
		}
		var dev virtio.Device
		if kind&1 == 0 {
			dev = rng.New(zeroes{})
		} else {
			dev = console.New(
				console.Port{Console: true, In: strings.NewReader("console input"), Out: io.Discard},
				console.Port{Name: "port", In: strings.NewReader("input"), Out: io.Discard},
			)
		}
		virtiotest.Play(t, dev, opt, s.Bytes(s.Len()))
	})
}
