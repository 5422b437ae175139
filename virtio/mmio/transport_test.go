package mmio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	ack         = mmio.StatusAcknowledge
	negotiating = ack | mmio.StatusDriver
	negotiated  = negotiating | mmio.StatusFeaturesOK
	running     = negotiated | mmio.StatusDriverOK
	needsReset  = mmio.StatusDeviceNeedsReset
	failed      = mmio.StatusFailed
)

// bring takes a fresh driver to a status, without queues.
func bring(d *virtiotest.Driver, status uint32) {
	d.Reset()
	for _, s := range []uint32{ack, negotiating} {
		if s <= status {
			d.Set(mmio.Status, s)
		}
	}
	if status == negotiated || status == running {
		d.Negotiate(mmio.FeatureVersion1)
	}
	if status == running {
		d.Set(mmio.Status, running)
	}
}

func TestIdentity(t *testing.T) {
	d := virtiotest.New(t, &device{}, virtiotest.Options{})
	for reg, want := range map[uint64]uint32{
		mmio.MagicValue:   0x74726976,
		mmio.Version:      2,
		mmio.DeviceID:     42,
		mmio.Status:       0,
		mmio.SHMLenLow:    0xffffffff,
		mmio.SHMLenHigh:   0xffffffff,
		mmio.SHMBaseLow:   0xffffffff,
		mmio.SHMBaseHigh:  0xffffffff,
		mmio.QueueNumMax:  8,
		mmio.QueueReady:   0,
		mmio.QueueDescLow: 0, // write-only
		0x0c0:             0, // QueueReset was not offered
		0x200 - 4:         0,
	} {
		if got := d.Get(reg); got != want {
			t.Errorf("register %#x is %#x, want %#x", reg, got, want)
		}
	}
	for sel, want := range map[uint32]uint32{
		0: deviceFeatures&0xffffffff | mmio.FeatureEventIdx | mmio.FeatureIndirectDesc,
		1: (deviceFeatures | mmio.FeatureVersion1) >> 32,
		2: 0, 0xffffffff: 0,
	} {
		d.Set(mmio.DeviceFeaturesSel, sel)
		if got := d.Get(mmio.DeviceFeatures); got != want {
			t.Errorf("features %d are %#x, want %#x", sel, got, want)
		}
	}
	for sel, want := range map[uint32]uint32{1: 16, 2: 0, 0xffffffff: 0} {
		d.Set(mmio.QueueSel, sel)
		if got := d.Get(mmio.QueueNumMax); got != want {
			t.Errorf("queue %d has %d entries, want %d", sel, got, want)
		}
	}
}

// TestStatus tries every value of the status register from every step.
func TestStatus(t *testing.T) {
	legal := map[[2]uint32]bool{
		{0, ack}: true, {ack, negotiating}: true, {negotiated, running}: true,
		{negotiating, negotiated}: true,
	}
	for _, from := range []uint32{0, ack, negotiating, negotiated, running} {
		for to := range uint32(512) {
			dev := &device{}
			d := virtiotest.New(t, dev, virtiotest.Options{})
			bring(d, from)
			if got := d.Get(mmio.Status); got != from {
				t.Fatalf("status is %#x, want %#x", got, from)
			}
			if from == negotiating { // as a driver does before FEATURES_OK
				d.Set(mmio.DriverFeaturesSel, 1)
				d.Set(mmio.DriverFeatures, 1)
			}
			d.Set(mmio.Status, to)
			want := from | needsReset
			bare := to &^ needsReset
			switch {
			case to == 0:
				want = 0
			case bare == from, bare == from|failed, legal[[2]uint32{from, bare}]:
				want = bare
			}
			if got := d.Get(mmio.Status); got != want {
				t.Errorf("status %#x, then %#x written: %#x, want %#x", from, to, got, want)
			}
			if active := dev.active() != nil; active != (want&mmio.StatusDriverOK != 0 && want&failed == 0) {
				t.Errorf("status %#x: device active %v", want, active)
			}
			d.Set(mmio.Status, 0)
			if got := d.Get(mmio.Status); got != 0 || dev.active() != nil {
				t.Errorf("status %#x after a reset, active %v", got, dev.active() != nil)
			}
		}
	}
}

func TestFeatures(t *testing.T) {
	type write struct{ sel, v uint32 }
	all := uint32(1<<3 | mmio.FeatureEventIdx | mmio.FeatureIndirectDesc)
	for name, tc := range map[string]struct {
		writes []write
		want   uint64 // 0: refused
	}{
		"version only":    {[]write{{1, 1}}, mmio.FeatureVersion1},
		"all":             {[]write{{0, all}, {1, 1 | 1<<8}}, uint64(all) | mmio.FeatureVersion1 | 1<<40},
		"rewritten":       {[]write{{0, 0xffffffff}, {1, 3}, {0, 8}, {1, 1}}, mmio.FeatureVersion1 | 8},
		"zero past 64":    {[]write{{1, 1}, {2, 0}, {3, 0}}, mmio.FeatureVersion1},
		"none":            {nil, 0},
		"no version":      {[]write{{0, 8}}, 0},
		"not offered":     {[]write{{0, 1}, {1, 1}}, 0},
		"not offered top": {[]write{{1, 1 | 1<<31}}, 0},
		"past 64":         {[]write{{1, 1}, {2, 1}}, 0},
		"far past 64":     {[]write{{1, 1}, {0xffffffff, 1}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dev := &device{}
			d := virtiotest.New(t, dev, virtiotest.Options{})
			bring(d, negotiating)
			for _, w := range tc.writes {
				d.Set(mmio.DriverFeaturesSel, w.sel)
				d.Set(mmio.DriverFeatures, w.v)
			}
			d.Set(mmio.Status, negotiated)
			if tc.want == 0 {
				if got := d.Get(mmio.Status); got != negotiating {
					t.Fatalf("status %#x, want FEATURES_OK refused", got)
				}
				return
			}
			if got := d.Get(mmio.Status); got != negotiated {
				t.Fatalf("status %#x", got)
			}
			// Too late to change them.
			d.Set(mmio.DriverFeaturesSel, 0)
			d.Set(mmio.DriverFeatures, 0xffffffff)
			d.Set(mmio.Status, running)
			if got := dev.active().Features; got != tc.want {
				t.Errorf("features %#x, want %#x", got, tc.want)
			}
		})
	}
}

func TestQueueSetup(t *testing.T) {
	set := func(num uint32, desc, driver, device uint64) func(*virtiotest.Driver) {
		return func(d *virtiotest.Driver) {
			d.Set(mmio.QueueNum, num)
			for reg, a := range map[uint64]uint64{mmio.QueueDescLow: desc, mmio.QueueDriverLow: driver, mmio.QueueDeviceLow: device} {
				d.Set(reg, uint32(a))
				d.Set(reg+4, uint32(a>>32))
			}
			d.Set(mmio.QueueReady, 1)
		}
	}
	good := set(8, 0x1000, 0x2000, 0x3000)
	for name, tc := range map[string]struct {
		at     uint32 // status
		sel    uint32
		f      func(*virtiotest.Driver)
		ready  uint32
		broken bool
	}{
		"good":          {negotiated, 0, good, 1, false},
		"smaller":       {negotiated, 1, set(2, 0x1000, 0x2000, 0x3000), 1, false},
		"above 4 GiB":   {negotiated, 1, set(16, virtiotest.HighMemory, 0x2000, 0x3000), 1, false},
		"size 0":        {negotiated, 0, set(0, 0x1000, 0x2000, 0x3000), 0, true},
		"too large":     {negotiated, 0, set(16, 0x1000, 0x2000, 0x3000), 0, true},
		"65536+8":       {negotiated, 0, set(65536+8, 0x1000, 0x2000, 0x3000), 0, true},
		"not a power":   {negotiated, 0, set(7, 0x1000, 0x2000, 0x3000), 0, true},
		"misaligned":    {negotiated, 0, set(8, 0x1008, 0x2000, 0x3000), 0, true},
		"overlapping":   {negotiated, 0, set(8, 0x1000, 0x1010, 0x3000), 0, true},
		"outside":       {negotiated, 0, set(8, 0x1000, 0x2000, 1<<31), 0, true},
		"nowhere":       {negotiated, 0, set(8, 0x1000, 0x2000, 1<<63), 0, true},
		"no addresses":  {negotiated, 0, func(d *virtiotest.Driver) { d.Set(mmio.QueueReady, 1) }, 0, true},
		"not there":     {negotiated, 2, good, 0, false},
		"far not there": {negotiated, 0xffffffff, good, 0, false},
		"too early":     {negotiating, 0, good, 0, false},
		"reset state":   {0, 0, good, 0, false},
		"too late":      {running, 0, good, 0, true},
		"down too late": {running, 0, func(d *virtiotest.Driver) { d.Set(mmio.QueueReady, 0) }, 0, true},
		"moved while ready": {negotiated, 0, func(d *virtiotest.Driver) {
			good(d)
			d.Set(mmio.QueueDescLow, 0x5000)
		}, 1, true},
		"resized while ready": {negotiated, 0, func(d *virtiotest.Driver) {
			good(d)
			d.Set(mmio.QueueNum, 4)
		}, 1, true},
		"twice ready": {negotiated, 0, func(d *virtiotest.Driver) {
			good(d)
			d.Set(mmio.QueueReady, 1)
		}, 1, true},
		"down and up": {negotiated, 0, func(d *virtiotest.Driver) {
			good(d)
			d.Set(mmio.QueueReady, 0)
			if d.Get(mmio.QueueReady) != 0 {
				t.Error("queue still ready")
			}
			good(d)
		}, 1, false},
		"taken down after reset": {negotiated, 0, func(d *virtiotest.Driver) {
			good(d)
			d.Reset()
			d.Set(mmio.QueueReady, 0)
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			dev := &device{}
			d := virtiotest.New(t, dev, virtiotest.Options{})
			bring(d, tc.at)
			d.Set(mmio.QueueSel, tc.sel)
			tc.f(d)
			if got := d.Get(mmio.QueueReady); got != tc.ready {
				t.Errorf("QueueReady is %d, want %d", got, tc.ready)
			}
			if broken := d.Get(mmio.Status)&needsReset != 0; broken != tc.broken {
				t.Errorf("needs a reset: %v, want %v", broken, tc.broken)
			}
			if tc.broken {
				d.Set(mmio.Status, running)
				if a := dev.active(); a != nil && tc.at != running {
					t.Error("a broken device was activated")
				}
			}
			d.Init()
		})
	}
}

func TestActivation(t *testing.T) {
	dev := &device{}
	d := virtiotest.Start(t, dev, virtiotest.Options{QueueSize: 4})
	a := dev.active()
	if len(a.Queues) != 2 || a.Queues[0].Size() != 4 || a.Queues[1].Size() != 4 || a.Mem != d.Mem {
		t.Errorf("activation is %+v", a)
	}
	for i, n := range d.Transport.Notifiers() {
		if a.Queues[i].Kick != n {
			t.Errorf("kick of queue %d is not its notifier", i)
		}
	}
	// The fallback of the ioeventfd signals the right one.
	d.Queues[1].Notify()
	if err := a.Queues[1].Kick.Wait(); err != nil {
		t.Error(err)
	}
	d.Set(mmio.QueueNotify, 2)
	d.Set(mmio.QueueNotify, 0xffffffff)
	if d.Transport.Faults() != 2 {
		t.Errorf("%d faults, want 2", d.Transport.Faults())
	}

	// A queue that was not enabled is nil.
	bring(d, running)
	if a := dev.active(); a.Queues[0].Queue != nil || a.Queues[0].Kick == nil {
		t.Errorf("queue that is not enabled: %+v", a.Queues[0])
	}
}

func TestActivateFails(t *testing.T) {
	dev := &device{activateErr: errors.New("no")}
	d := virtiotest.New(t, dev, virtiotest.Options{})
	bring(d, running)
	if s := d.Get(mmio.Status); s != running|needsReset {
		t.Errorf("status %#x", s)
	}
	d.Reset()
	if dev.resets != 1 {
		t.Errorf("%d resets of a device that failed to activate, want 1", dev.resets)
	}
}

func TestInterrupts(t *testing.T) {
	dev := &device{}
	log := &bytes.Buffer{}
	d := virtiotest.Start(t, dev, virtiotest.Options{Log: log})
	a := dev.active()
	config, generation := d.ConfigInterrupts(), d.Get(mmio.ConfigGeneration)
	a.ConfigChanged()
	d.Until("configuration change", func() bool { return d.ConfigInterrupts() == config+1 })
	if d.Get(mmio.ConfigGeneration) == generation {
		t.Error("the configuration generation did not change")
	}
	d.Until("acknowledgement", func() bool { return d.Get(mmio.InterruptStatus) == 0 })

	// What comes from an activation that is over has no effect.
	d.Reset()
	config = d.ConfigInterrupts()
	a.Queues[0].Interrupt()
	a.ConfigChanged()
	a.Fail(errors.New("late"))
	d.Init()
	if s := d.Get(mmio.InterruptStatus); s != 0 || d.ConfigInterrupts() != config {
		t.Errorf("interrupt status %#x, %d configuration interrupts", s, d.ConfigInterrupts()-config)
	}
	if s := d.Get(mmio.Status); s != running || log.Len() != 0 {
		t.Errorf("status %#x; log %q", s, log)
	}
}

func TestInterruptsUnacknowledged(t *testing.T) {
	dev := &device{}
	mem, err := guestmem.New(guestmem.Region{Data: make([]byte, guestmem.PageSize)})
	if err != nil {
		t.Fatal(err)
	}
	irq, err := eventfd.New()
	if err != nil {
		t.Fatal(err)
	}
	defer irq.Close()
	tr, err := mmio.New(dev, mem, irq, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, w := range [][2]uint32{
		{mmio.Status, ack}, {mmio.Status, negotiating},
		{mmio.DriverFeaturesSel, 1}, {mmio.DriverFeatures, mmio.FeatureVersion1 >> 32},
		{mmio.Status, negotiated}, {mmio.Status, running},
	} {
		tr.Write(uint64(w[0]), binary.LittleEndian.AppendUint32(nil, w[1]))
	}
	for i := range 3 {
		dev.active().ConfigChanged()
		if n, err := unix.Read(irq.FD(), make([]byte, 8)); n != 8 {
			t.Fatalf("interrupt %d: %d bytes, %v", i, n, err)
		}
	}
}

func TestFail(t *testing.T) {
	dev := &device{}
	log := &bytes.Buffer{}
	d := virtiotest.New(t, dev, virtiotest.Options{Log: log})
	var failures []error
	d.Transport.OnFailure(func(err error) { failures = append(failures, err) })
	const times = 20
	for range times {
		d.Init()
		a := dev.active()
		head, _ := d.Queues[0].Add(virtiotest.Buffer{Addr: 0x8000, Len: 1})
		if _, ok, err := a.Queues[0].Pop(); !ok || err != nil {
			t.Fatal(ok, err)
		}
		config := d.ConfigInterrupts()
		a.Fail(errors.New("first"))
		a.Fail(errors.New("second"))
		d.Until("configuration change", func() bool { return d.ConfigInterrupts() > config })
		if s := d.Get(mmio.Status); s != running|needsReset {
			t.Errorf("status %#x", s)
		}
		if _, err := a.Queues[0].Push(head, 0); !errors.Is(err, virtqueue.ErrStopped) {
			t.Errorf("Push after Fail = %v", err)
		}
		// Only a reset helps.
		before := dev.config
		d.Set(mmio.Config, 0x12345678)
		if dev.config != before {
			t.Error("a device that needs a reset took a configuration write")
		}
		for _, s := range []uint32{running, negotiated, ack} {
			d.Set(mmio.Status, s)
		}
		if s := d.Get(mmio.Status); s != running|needsReset {
			t.Errorf("status %#x", s)
		}
	}
	if len(failures) != times || failures[0].Error() != "first" {
		t.Errorf("%d failures, want %d: %v", len(failures), times, failures)
	}
	if lines := strings.Count(log.String(), "\n"); lines == 0 || lines > 10 {
		t.Errorf("%d lines of log for %d failures", lines, times)
	}
	if d.Transport.Faults() < times {
		t.Errorf("%d faults counted", d.Transport.Faults())
	}
}

// TestResetInFlight resets while the device holds a chain.
func TestResetInFlight(t *testing.T) {
	dev := &device{}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	head, _ := d.Queues[0].Add(virtiotest.Buffer{Addr: 0x8000, Len: 1})
	q := dev.active().Queues[0]
	if _, ok, err := q.Pop(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	d.Init()
	if _, err := q.Push(head, 1); !errors.Is(err, virtqueue.ErrStopped) {
		t.Errorf("Push = %v, want ErrStopped", err)
	}
	q.Interrupt()
	if d.Queues[0].UsedIdx() != 0 || d.Get(mmio.InterruptStatus) != 0 {
		t.Error("the queue of an earlier activation reached the guest")
	}
	if _, ok, err := dev.active().Queues[0].Pop(); ok || err != nil {
		t.Errorf("Pop of the new queue = %v, %v", ok, err)
	}
}

func TestConfigSpace(t *testing.T) {
	dev := &device{}
	for i := range dev.config {
		dev.config[i] = byte(i + 1)
	}
	d := virtiotest.New(t, dev, virtiotest.Options{})
	for _, tc := range []struct {
		offset uint64
		want   []byte
	}{
		{0, []byte{1}},
		{1, []byte{2, 3}},
		{3, []byte{4, 5, 6, 7}},
		{8, []byte{9, 10, 11, 12, 13, 14, 15, 16}},
		{12, []byte{13, 14, 15, 16, 0, 0, 0, 0}},
		{16, []byte{0}},
		{0xeff, []byte{0}},
		{0xf00, []byte{0, 0}}, // outside the window
		{1 << 40, []byte{0, 0, 0, 0}},
	} {
		got := bytes.Repeat([]byte{0xff}, len(tc.want))
		if d.Transport.Read(mmio.Config+tc.offset, got); !bytes.Equal(got, tc.want) {
			t.Errorf("%d bytes at %#x are %v, want %v", len(got), tc.offset, got, tc.want)
		}
	}
	d.Transport.Write(mmio.Config+2, []byte{0xaa, 0xbb})
	d.Transport.Write(mmio.Config+15, []byte{0xcc, 0xdd})
	d.Transport.Write(mmio.Config+1<<40, []byte{0xee})
	if want := []byte{1, 2, 0xaa, 0xbb, 5}; !bytes.Equal(dev.config[:5], want) || dev.config[15] != 0xcc {
		t.Errorf("configuration is %v", dev.config)
	}
}

// TestWidths accesses every offset with every width.
func TestWidths(t *testing.T) {
	d := virtiotest.New(t, &device{}, virtiotest.Options{})
	for offset := range uint64(mmio.Config) {
		for _, width := range []int{0, 1, 2, 3, 4, 5, 8, 16} {
			if width == 4 && offset%4 == 0 {
				continue
			}
			p := bytes.Repeat([]byte{0xff}, width)
			d.Transport.Write(offset, p)
			if d.Transport.Read(offset, p); !bytes.Equal(p, make([]byte, width)) {
				t.Fatalf("%d bytes at %#x are %x, want zeroes", width, offset, p)
			}
		}
	}
	if s := d.Get(mmio.Status); s != 0 {
		t.Errorf("status %#x after accesses of the wrong width", s)
	}
}

func TestClose(t *testing.T) {
	dev := &device{}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	for range 2 {
		if err := d.Transport.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if dev.active() != nil {
		t.Error("the device is active after Close")
	}
	d.Set(mmio.Status, ack)
	d.Set(mmio.QueueNotify, 0)
	d.Set(mmio.Config, 1)
	var p [4]byte
	d.Transport.Read(mmio.Config, p[:])
	if s := d.Get(mmio.Status); s != 0 {
		t.Errorf("status %#x after Close", s)
	}
}

// TestConcurrent has vCPUs race for one device, with the device's goroutines
// interrupting and failing.
func TestConcurrent(t *testing.T) {
	dev := &device{}
	d := virtiotest.New(t, dev, virtiotest.Options{})
	var wg sync.WaitGroup
	for cpu := range 4 {
		wg.Go(func() {
			var p [4]byte
			for i := range 2000 {
				reg := uint64(i*7+cpu) % 80 * 4
				binary.LittleEndian.PutUint32(p[:], uint32(i))
				d.Transport.Read(reg, p[:])
				d.Transport.Write(reg, p[:])
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for i := range 200 {
				bring(d, running)
				if a := dev.active(); a != nil {
					a.Queues[0].Interrupt()
					a.ConfigChanged()
					if i%3 == 0 {
						a.Fail(errors.New("test"))
					}
				}
			}
		})
	}
	wg.Wait()
	d.Reset()
	bring(d, running)
	if s := d.Get(mmio.Status); s != running {
		t.Errorf("status %#x", s)
	}
}
