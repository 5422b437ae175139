package balloon_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"runv.dev/runv/virtio/balloon"
	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
)

const (
	inflate = iota
	deflate
	reporting
)

// host keeps what is given back to it.
type host struct {
	mu    sync.Mutex
	sizes []int
	err   error
	log   bytes.Buffer
}

func (h *host) discard(b []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sizes = append(h.sizes, len(b))
	return h.err
}

func (h *host) given() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sizes)
}

func start(t testing.TB, opt virtiotest.Options) (*virtiotest.Driver, *balloon.Device, *host) {
	h := new(host)
	dev := balloon.New(slog.New(slog.NewTextHandler(&h.log, nil)))
	d := virtiotest.New(t, dev, opt)
	d.Mem.OnDiscard(h.discard)
	d.Init()
	return d, dev, h
}

func TestReport(t *testing.T) {
	d, dev, h := start(t, virtiotest.Options{})
	if n, ok := dev.Reporting(); n != 0 || !ok {
		t.Errorf("before: %d reports, %v", n, ok)
	}
	q := d.Queues[reporting]
	q.Submit(nil, 4096, 8192)
	if r := q.Wait(); r.Len != 0 {
		t.Errorf("%d bytes written to free memory", r.Len)
	}
	q.Submit(nil, 1<<16)
	q.Wait()
	if got := h.given(); !slices.Equal(got, []int{4096, 8192, 1 << 16}) {
		t.Errorf("given back: %v", got)
	}
	if n, _ := dev.Reporting(); n != 2 {
		t.Errorf("%d reports; want 2", n)
	}
	d.Init()
	if _, ok := dev.Reporting(); !ok {
		t.Error("not reporting after another start")
	}
}

func TestWithoutReporting(t *testing.T) {
	d, dev, _ := start(t, virtiotest.Options{Refuse: balloon.FeatureReporting})
	if _, ok := dev.Reporting(); ok {
		t.Error("reporting, which was not negotiated")
	}
	d.Queues[inflate].Submit([][]byte{make([]byte, 4)})
	d.Queues[inflate].Wait()
}

// TestPages has a driver inflate and deflate, which it was not asked to: it gets
// its pages back, and they stay memory.
func TestPages(t *testing.T) {
	d, _, h := start(t, virtiotest.Options{})
	for _, i := range []int{inflate, deflate} {
		d.Queues[i].Submit([][]byte{{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}})
		if r := d.Queues[i].Wait(); r.Len != 0 {
			t.Errorf("queue %d: %d bytes written", i, r.Len)
		}
	}
	if got := h.given(); len(got) != 0 {
		t.Errorf("given back: %v", got)
	}
	// num_pages and actual of section 5.5.4.
	for offset := uint64(0); offset < 8; offset += 4 {
		d.Set(mmio.Config+offset, 0xffffffff)
		if v := d.Get(mmio.Config + offset); v != 0 {
			t.Errorf("configuration at %d: %#x", offset, v)
		}
	}
}

// TestHostFails: no driver notices, and the log has it once.
func TestHostFails(t *testing.T) {
	d, _, h := start(t, virtiotest.Options{})
	h.err = errors.New("no memory for that")
	for range 3 {
		d.Queues[reporting].Submit(nil, 4096)
		d.Queues[reporting].Wait()
	}
	if n := bytes.Count(h.log.Bytes(), []byte("no memory for that")); n != 1 {
		t.Errorf("%d lines in the log: %s", n, h.log.Bytes())
	}
}

func TestMisbehaviour(t *testing.T) {
	for name, f := range map[string]func(d *virtiotest.Driver){
		"readable buffer in a report": func(d *virtiotest.Driver) {
			d.Queues[reporting].Submit([][]byte{{1}}, 4096)
		},
		"writable buffer among pages to inflate": func(d *virtiotest.Driver) {
			d.Queues[inflate].Submit(nil, 4096)
		},
		"writable buffer among pages to deflate": func(d *virtiotest.Driver) {
			d.Queues[deflate].Submit([][]byte{{1, 0, 0, 0}}, 4)
		},
		"head past the end": func(d *virtiotest.Driver) {
			d.Queues[reporting].Publish(64)
			d.Queues[reporting].Notify()
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _, h := start(t, virtiotest.Options{})
			f(d)
			d.UntilNeedsReset()
			if got := h.given(); len(got) != 0 {
				t.Errorf("given back: %v", got)
			}
			d.Init()
		})
	}
}

func TestQueueNotEnabled(t *testing.T) {
	for features, want := range map[uint64]bool{mmio.FeatureVersion1 | balloon.FeatureReporting: true, mmio.FeatureVersion1: false} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			d := virtiotest.New(t, balloon.New(slog.New(slog.DiscardHandler)), virtiotest.Options{})
			d.Set(mmio.Status, 1)
			d.Set(mmio.Status, 3)
			d.Negotiate(features)
			d.Set(mmio.Status, 15)
			if s := d.Get(mmio.Status); s&mmio.StatusDeviceNeedsReset != 0 != want {
				t.Errorf("status %#x without queues", s)
			}
		})
	}
}

// TestMigrate has a driver go on with another device.
func TestMigrate(t *testing.T) {
	d, _, _ := start(t, virtiotest.Options{})
	d.Queues[reporting].Submit(nil, 4096)
	d.Queues[reporting].Wait()
	next := balloon.New(slog.New(slog.DiscardHandler))
	d = d.Migrate(next)
	d.Queues[reporting].Submit(nil, 4096)
	d.Queues[reporting].Wait()
	if n, ok := next.Reporting(); n != 1 || !ok {
		t.Errorf("%d reports to the new device, %v", n, ok)
	}
}

func FuzzDevice(f *testing.F) {
	f.Add([]byte("\x04\x02\x01\x08request!\x01\x20\x00\x08\x00"))
	f.Add([]byte("\x05\x02\x00\x01\x20\x00\x02\x02\x08\x00"))
	f.Add([]byte{12, 2, 0xff, 0x7f, 2, 2, 3})
	f.Add([]byte{9, 2, 0, 0, 3, 0, 1, 0, 0, 3, 2, 11, 0, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		virtiotest.Play(t, balloon.New(slog.New(slog.DiscardHandler)), virtiotest.Options{}, script)
	})
}
