package rng_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"testing/iotest"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/virtio/virtiotest"
)

func TestFill(t *testing.T) {
	d := virtiotest.Start(t, rng.New(rand.Reader), virtiotest.Options{})
	a := d.Queues[0].Do(nil, 64)
	b := d.Queues[0].Do(nil, 64)
	if len(a) != 64 || len(b) != 64 || bytes.Equal(a, b) || bytes.Equal(a, make([]byte, 64)) {
		t.Errorf("%x and %x are not random", a, b)
	}
}

// counter gives 0, 1, 2 and so on.
type counter byte

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(*c)
		*c++
	}
	return len(p), nil
}

func TestSeveralBuffers(t *testing.T) {
	d := virtiotest.Start(t, rng.New(iotest.OneByteReader(new(counter))), virtiotest.Options{})
	d.Queues[0].Submit(nil, 1, 2, 3)
	if got := d.Queues[0].Wait().Data(); !bytes.Equal(got, []byte{0, 1, 2, 3, 4, 5}) {
		t.Errorf("got %v", got)
	}
}

func TestBounded(t *testing.T) {
	d := virtiotest.Start(t, rng.New(new(counter)), virtiotest.Options{})
	for _, in := range [][]int{{1 << 19}, {60000, 60000}} {
		d.Queues[0].Submit(nil, in...)
		if r := d.Queues[0].Wait(); r.Len != 64<<10 {
			t.Errorf("%d bytes for buffers of %v", r.Len, in)
		}
	}
}

func TestManyRequests(t *testing.T) {
	d := virtiotest.Start(t, rng.New(new(counter)), virtiotest.Options{Refuse: mmio.FeatureEventIdx})
	for range 100 {
		for range 64 {
			d.Queues[0].Submit(nil, 32)
		}
		for range 64 {
			if n := len(d.Queues[0].Wait().Data()); n != 32 {
				t.Fatalf("%d bytes", n)
			}
		}
	}
}

func TestMisbehaviour(t *testing.T) {
	for name, tc := range map[string]struct {
		source *rng.Device
		f      func(d *virtiotest.Driver)
	}{
		"readable buffer": {rng.New(rand.Reader), func(d *virtiotest.Driver) {
			d.Queues[0].Submit([][]byte{{1}}, 8)
		}},
		"head past the end": {rng.New(rand.Reader), func(d *virtiotest.Driver) {
			d.Queues[0].Publish(64)
			d.Queues[0].Notify()
		}},
		"source fails": {rng.New(iotest.ErrReader(errors.New("gone"))), func(d *virtiotest.Driver) {
			d.Queues[0].Submit(nil, 8)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.Start(t, tc.source, virtiotest.Options{})
			tc.f(d)
			d.UntilNeedsReset()
			d.Init()
		})
	}
}

func TestQueueNotEnabled(t *testing.T) {
	d := virtiotest.New(t, rng.New(rand.Reader), virtiotest.Options{})
	d.Set(mmio.Status, 1)
	d.Set(mmio.Status, 3)
	d.Negotiate(mmio.FeatureVersion1)
	d.Set(mmio.Status, 15)
	if s := d.Get(mmio.Status); s&mmio.StatusDeviceNeedsReset == 0 {
		t.Errorf("status %#x without a queue", s)
	}
}
