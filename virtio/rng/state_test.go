package rng_test

import (
	"bytes"
	"testing"

	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/virtio/virtiotest"
)

// TestMigrate has a driver go on with another device: its answers and
// interrupts come as before.
func TestMigrate(t *testing.T) {
	source := new(counter)
	d := virtiotest.Start(t, rng.New(source), virtiotest.Options{})
	for i := range 100 {
		d.Queues[0].Submit(nil, 3)
		if got := d.Queues[0].Wait().Data(); !bytes.Equal(got, []byte{byte(3 * i), byte(3*i + 1), byte(3*i + 2)}) {
			t.Fatalf("answer %d is %v", i, got)
		}
		if i%10 == 9 {
			d = d.Migrate(rng.New(source))
		}
	}
}
