package console_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/virtio/virtiotest"
)

const (
	featureSize      = 1 << 0
	featureMultiport = 1 << 1
)

// Control events of section 5.3.6.2.
const (
	deviceReady = iota
	portAdd
	portRemove
	portReady
	consolePort
	resize
	portOpen
	portName
)

func control(id uint32, event, value uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint16(b, event)
	return binary.LittleEndian.AppendUint16(b, value)
}

// text makes a message of the device readable.
func text(b []byte) string {
	if len(b) < 8 {
		return fmt.Sprintf("short: %x", b)
	}
	names := []string{"ready", "add", "remove", "portready", "console", "resize", "open", "name"}
	event := binary.LittleEndian.Uint16(b[4:])
	s := fmt.Sprintf("%d %s %d", binary.LittleEndian.Uint32(b), names[event], binary.LittleEndian.Uint16(b[6:]))
	switch event {
	case resize:
		s += fmt.Sprintf(" %dx%d", binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:]))
	case portName:
		s += " " + string(b[8:])
	default:
		s += string(b[8:])
	}
	return s
}

// buffer is a writer to wait for.
type buffer struct {
	mu   sync.Mutex
	cond sync.Cond
	b    bytes.Buffer
}

func newBuffer() *buffer {
	b := &buffer{}
	b.cond.L = &b.mu
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cond.Broadcast()
	return b.b.Write(p)
}

// wait waits for n bytes and returns all.
func (b *buffer) wait(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.b.Len() < n {
		b.cond.Wait()
	}
	return b.b.String()
}

// guest is the driver's side of a multiport console.
type guest struct {
	*virtiotest.Driver
	t testing.TB
}

func start(t testing.TB, d *console.Device, opt virtiotest.Options) guest {
	t.Helper()
	return guest{virtiotest.Start(t, d, opt), t}
}

func (g guest) rx(port int) *virtiotest.Queue {
	if port == 0 {
		return g.Queues[0]
	}
	return g.Queues[2+2*port]
}

func (g guest) tx(port int) *virtiotest.Queue {
	if port == 0 {
		return g.Queues[1]
	}
	return g.Queues[3+2*port]
}

func (g guest) say(id uint32, event, value uint16) {
	g.t.Helper()
	g.Queues[3].Do(control(id, event, value), 0)
}

// hear receives n control messages.
func (g guest) hear(n int) []string {
	g.t.Helper()
	var got []string
	for range n {
		got = append(got, text(g.Queues[2].Do(nil, 64)))
	}
	return got
}

func (g guest) expect(want ...string) {
	g.t.Helper()
	if got := g.hear(len(want)); !slices.Equal(got, want) {
		g.t.Errorf("control messages %q, want %q", got, want)
	}
}

func TestNegotiation(t *testing.T) {
	d := console.New(console.Port{Console: true}, console.Port{Name: "runv.log"}, console.Port{})
	d.Resize(0, 80, 25)
	g := start(t, d, virtiotest.Options{})
	if c := g.Config(0, 12); !bytes.Equal(c, []byte{80, 0, 25, 0, 3, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("configuration space is %v", c)
	}
	g.say(^uint32(0), deviceReady, 1)
	g.expect("0 add 1", "1 add 1", "2 add 1")
	g.say(1, portReady, 1)
	g.expect("1 name 1 runv.log", "1 open 1")
	g.say(0, portReady, 1)
	g.expect("0 console 1", "0 resize 1 80x25", "0 open 1")
	g.say(2, portReady, 1)
	g.expect("2 open 1")

	// Ready again is told again, once, however often it was said before the
	// driver made room.
	for range 10 {
		g.say(2, portReady, 1)
	}
	g.expect("2 open 1")
	config := g.ConfigInterrupts()
	d.Resize(0, 100, 40)
	g.expect("0 resize 1 100x40")
	g.Until("configuration change", func() bool { return g.ConfigInterrupts() > config })
	if c := g.Config(0, 4); !bytes.Equal(c, []byte{100, 0, 40, 0}) {
		t.Errorf("size is %v", c)
	}

	// What is of a later specification or means nothing is ignored.
	g.say(0, 99, 1)
	g.say(0, portName, 1)
	g.say(0, deviceReady, 0)
	g.say(2, portReady, 0)
	d.Resize(1, 1, 1)
	d.Resize(17, 1, 1)
	d.Resize(0, 1, 2)
	g.expect("0 resize 1 1x2")
}

func TestResetForgets(t *testing.T) {
	d := console.New(console.Port{Name: "a"})
	g := start(t, d, virtiotest.Options{})
	g.say(0, deviceReady, 1)
	g.say(0, portReady, 1)
	g.expect("0 add 1", "0 name 1 a", "0 open 1")
	g.Init()
	g.say(0, deviceReady, 1)
	g.expect("0 add 1") // and nothing before it
}

func TestOutput(t *testing.T) {
	outs := []*buffer{newBuffer(), newBuffer(), newBuffer()}
	d := console.New(console.Port{Console: true, Out: outs[0]}, console.Port{Out: outs[1]}, console.Port{Out: outs[2]})
	for _, refuse := range []uint64{0, mmio.FeatureEventIdx, mmio.FeatureEventIdx | mmio.FeatureIndirectDesc} {
		g := start(t, d, virtiotest.Options{Refuse: refuse})
		for port := range outs {
			for i := range 99 {
				g.tx(port).Do([]byte(strings.Repeat(string(rune('a'+port)), i+1)), 0)
			}
			r := g.tx(port).Submit([][]byte{[]byte("in "), []byte("two "), []byte("buffers\n")})
			g.tx(port).Wait()
			r.Free()
		}
		g.Reset()
	}
	for port, out := range outs {
		want := strings.Repeat(strings.Repeat(string(rune('a'+port)), 4950)+"in two buffers\n", 3)
		if got := out.wait(len(want)); got != want {
			t.Errorf("port %d has %d bytes of output, want %d", port, len(got), len(want))
		}
	}
}

func TestWithoutMultiport(t *testing.T) {
	out := newBuffer()
	d := console.New(console.Port{Out: out, In: strings.NewReader("input")}, console.Port{})
	g := start(t, d, virtiotest.Options{Refuse: featureMultiport | featureSize})
	g.Queues[1].Do([]byte("output"), 0)
	if got := out.wait(6); got != "output" {
		t.Errorf("output %q", got)
	}
	if got := g.Queues[0].Do(nil, 100); string(got) != "input" {
		t.Errorf("input %q", got)
	}
}

// blocked is a writer that writes nothing until released.
type blocked struct {
	started, release chan struct{}
	once             sync.Once
	n                int
}

func newBlocked() *blocked {
	return &blocked{started: make(chan struct{}), release: make(chan struct{})}
}

func (b *blocked) Write(p []byte) (int, error) {
	b.once.Do(func() { close(b.started) })
	<-b.release
	b.n += len(p)
	return len(p), nil
}

func TestBlockedWriter(t *testing.T) {
	stuck, out := newBlocked(), newBuffer()
	d := console.New(console.Port{Console: true, Out: out}, console.Port{Out: stuck})
	g := start(t, d, virtiotest.Options{MemoryBytes: 4 << 20})
	// The port takes its buffer's worth, twice: one is being written.
	page := make([]byte, 4096)
	g.tx(1).Do(page, 0)
	<-stuck.started
	for range 16 {
		g.tx(1).Do(page, 0)
	}
	held := g.tx(1).Submit([][]byte{page})
	// The other goes on, as does the control queue.
	g.tx(0).Do([]byte("alive"), 0)
	if got := out.wait(5); got != "alive" {
		t.Errorf("output %q", got)
	}
	g.say(0, deviceReady, 1)
	g.expect("0 add 1", "1 add 1")
	if r := g.tx(1).Done(); r != nil {
		t.Errorf("chain %d was taken although the buffer is full", r.Head)
	}
	// Emergency writes to a full port do not block.
	g.Set(mmio.Config+8, 'x')
	// Neither does the reset, time and again.
	for range 3 {
		g.Init()
		g.tx(0).Do([]byte("alive"), 0)
		held = g.tx(1).Submit([][]byte{page})
	}
	close(stuck.release)
	if done := g.tx(1).Wait(); done != held {
		t.Errorf("chain %d came back, want %d", done.Head, held.Head)
	}
	g.Reset()
	if min := 18 * 4096; stuck.n < min {
		t.Errorf("%d bytes written, want at least %d", stuck.n, min)
	}
}

type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	f.n++
	return 0, errors.New("gone")
}

func TestFailedWriter(t *testing.T) {
	w := &failing{}
	d := console.New(console.Port{Console: true, Out: w}, console.Port{})
	g := start(t, d, virtiotest.Options{MemoryBytes: 4 << 20})
	for range 100 {
		g.tx(0).Do(make([]byte, 4096), 0)
		g.tx(1).Do(make([]byte, 4096), 0) // has no writer
	}
	g.Reset()
	if w.n != 1 {
		t.Errorf("%d writes to a writer that failed, want 1", w.n)
	}
}

func TestEmergencyWrite(t *testing.T) {
	out := newBuffer()
	d := console.New(console.Port{Console: true, Out: out})
	g := virtiotest.New(t, d, virtiotest.Options{})
	for _, c := range "early" {
		g.Set(mmio.Config+8, 0xabcdef00|uint32(c))
	}
	g.Set(mmio.Config+4, 'x')
	g.Set(mmio.Config+12, 'x')
	if got := out.wait(5); got != "early" {
		t.Errorf("output %q", got)
	}
}

func TestInput(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	d := console.New(console.Port{Console: true}, console.Port{Name: "in", In: r})
	g := start(t, d, virtiotest.Options{})
	g.say(0, deviceReady, 1)
	g.say(1, portReady, 1)
	g.expect("0 add 1", "1 add 1", "1 name 1 in", "1 open 1")

	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write([]byte("first"))
		wrote <- err
	}()
	req := g.rx(1).Submit(nil, 2, 1)
	// Nothing is read for a port that the guest has not opened.
	g.say(0, 99, 0)
	if len(wrote) != 0 || g.rx(1).Done() != nil {
		t.Error("input for a closed port")
	}
	g.say(1, portOpen, 1)
	if done := g.rx(1).Wait(); done != req || string(done.Data()) != "fir" {
		t.Errorf("first chain is %d long", done.Len)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if got := g.rx(1).Do(nil, 100); string(got) != "st" {
		t.Errorf("input %q, want the rest", got)
	}

	// What was read before a reset is not lost by it.
	go func() {
		w.Write([]byte("second"))
		w.Close()
	}()
	if got := g.rx(1).Do(nil, 3); string(got) != "sec" {
		t.Errorf("input %q", got)
	}
	g.Init()
	g.say(0, deviceReady, 1)
	g.say(1, portReady, 1)
	g.expect("0 add 1", "1 add 1", "1 name 1 in", "1 open 1")
	g.say(1, portOpen, 1)
	if got := g.rx(1).Do(nil, 100); string(got) != "ond" {
		t.Errorf("input %q after the reset", got)
	}
	// The port takes no output, so the end of its input closes it.
	g.expect("1 open 0")
}

func TestInputBackpressure(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	d := console.New(console.Port{Console: true, In: r, Out: io.Discard})
	g := start(t, d, virtiotest.Options{})
	const size = 1 << 20
	written := make(chan int, 1)
	go func() {
		n, _ := w.Write(make([]byte, size))
		written <- n
		w.Close()
	}()
	for got := 0; got < size; {
		if len(written) != 0 && size-got > 3*32<<10 {
			t.Fatalf("all was read when the guest had taken only %d", got)
		}
		n := len(g.rx(0).Do(nil, 8192))
		if n == 0 {
			t.Fatal("nothing received")
		}
		got += n
	}
	if n := <-written; n != size {
		t.Errorf("%d bytes read", n)
	}
}

func TestMisbehaviour(t *testing.T) {
	for name, f := range map[string]func(g guest){
		"short control message": func(g guest) { g.Queues[3].Submit([][]byte{make([]byte, 7)}) },
		"empty control message": func(g guest) { g.Queues[3].Submit([][]byte{nil}) },
		"bogus port ready":      func(g guest) { g.Queues[3].Submit([][]byte{control(2, portReady, 1)}) },
		"bogus port open":       func(g guest) { g.Queues[3].Submit([][]byte{control(1<<31, portOpen, 1)}) },
		"writable control":      func(g guest) { g.Queues[3].Submit([][]byte{control(0, deviceReady, 1)}, 8) },
		"writable output":       func(g guest) { g.tx(1).Submit([][]byte{[]byte("x")}, 8) },
		"readable input":        func(g guest) { g.rx(0).Submit([][]byte{[]byte("x")}, 8) },
		"readable control":      func(g guest) { g.Queues[2].Submit([][]byte{[]byte("x")}, 8) },
		"small control buffer": func(g guest) {
			g.Queues[2].Submit(nil, 7)
			g.Queues[3].Submit([][]byte{control(0, deviceReady, 1)})
		},
		"index jump": func(g guest) {
			g.tx(0).SetAvailableIdx(1000)
			g.tx(0).Notify()
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := console.New(console.Port{Console: true, In: strings.NewReader("x")}, console.Port{})
			g := start(t, d, virtiotest.Options{})
			f(g)
			g.UntilNeedsReset()
			g.Until("configuration change", func() bool { return g.ConfigInterrupts() > 0 })
			// A reset repairs it.
			g.Init()
			g.say(0, deviceReady, 1)
			g.expect("0 add 1", "1 add 1")
		})
	}
}

func TestQueuesNotEnabled(t *testing.T) {
	g := virtiotest.New(t, console.New(console.Port{}), virtiotest.Options{})
	for _, s := range []uint32{1, 3} {
		g.Set(mmio.Status, s)
	}
	g.Negotiate(mmio.FeatureVersion1 | featureMultiport)
	g.Set(mmio.Status, 15)
	if s := g.Get(mmio.Status); s != 15|mmio.StatusDeviceNeedsReset {
		t.Errorf("status %#x without control queues", s)
	}
}

// TestMigrate: ports that the guest had open stay open, and those the driver
// knows hear of a new size.
func TestMigrate(t *testing.T) {
	ports := func(out io.Writer, in io.Reader) *console.Device {
		return console.New(console.Port{Console: true, Out: out}, console.Port{Name: "log", Out: out, In: in})
	}
	first, second := newBuffer(), newBuffer()
	r, w := io.Pipe()
	defer w.Close()
	old := ports(first, strings.NewReader(""))
	d := virtiotest.Start(t, old, virtiotest.Options{})
	for _, m := range [][]byte{control(0, deviceReady, 1), control(0, portReady, 1), control(1, portReady, 1), control(1, portOpen, 1)} {
		d.Queues[3].Do(m, 0)
	}
	state, err := old.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(state, []byte{3, 3}) {
		t.Fatalf("state %v", state)
	}
	dev := ports(second, r)
	n := d.Migrate(dev)
	if got, err := dev.SaveState(); err != nil || !bytes.Equal(got, state) {
		t.Errorf("state %v after the restore; want %v", got, state)
	}
	go w.Write([]byte("input"))
	n.Queues[4].Submit(nil, 16)
	if got := string(n.Queues[4].Wait().Data()); got != "input" {
		t.Errorf("input %q", got)
	}
	if err := console.New(console.Port{}).RestoreState(state); err == nil {
		t.Error("the state of a device with other ports is accepted")
	}
}
