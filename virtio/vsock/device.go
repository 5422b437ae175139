// Package vsock is a virtio socket device (virtio 1.2, section 5.10): stream
// and seqpacket connections between sockets in the guest and the VMM.
//
// The host's side is an API like that of package net (Dial, Listen, Conn), and
// ServeUnix, which offers guest ports on a Unix socket. The guest's side is a
// driver nobody trusts: whatever it does ends its connections or stops the
// device, and what it can make the device hold is bounded (see Options).
//
// A packet from the guest is taken by one goroutine, which never waits for a
// reader: it copies the payload to the reader, or to a buffer as large as the
// credit the guest was given. A packet to the guest is copied from Write
// straight into the driver's receive buffers; nothing is queued in between.
package vsock

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"runv.dev/runv/internal/logging"
	"runv.dev/runv/virtio"
)

// DeviceID is the virtio device type (section 5).
const DeviceID = 19

// Feature bits (section 5.10.3).
const (
	featureStream    = 1 << 0
	featureSeqpacket = 1 << 1
)

// Virtqueues (section 5.10.2), from the driver's point of view.
const (
	queueRX = iota
	queueTX
	queueEvent
	queueCount
)

const (
	queueSize      = 256
	eventQueueSize = 16
)

// Options configure a device. Zero values mean the defaults.
type Options struct {
	// CID is the guest's context identifier, above 2.
	CID uint64

	// MaxConns bounds the connections, half-open and closing ones included;
	// default 1024. A guest's request beyond it is reset, Dial fails.
	MaxConns int

	// Window is the receive buffer of a connection in bytes, which is the
	// credit the guest gets; default 256 KiB. Memory is taken for what is in
	// it only. A stream that carries much gets four times that.
	Window uint32

	// MaxBuffer bounds the receive buffers of all connections together, in
	// bytes; default 64 MiB. Connections made when it is used up have a small
	// one of 16 KiB each.
	MaxBuffer uint64

	// MaxSeqpacket bounds the SOCK_SEQPACKET connections among MaxConns; default
	// an eighth of those. As a message has to fit in, their small receive
	// buffers have 128 KiB.
	MaxSeqpacket int

	// Backlog is how many connections of a listener wait for Accept before the
	// guest's requests are refused; default 128.
	Backlog int

	// CloseTimeout is how long the guest may take to acknowledge that a
	// connection is closed; default 8 seconds.
	CloseTimeout time.Duration

	Log *slog.Logger // default: slog.Default
}

const (
	wideWindow      = 4 // times Options.Window
	widenAfter      = 4 // credit updates
	smallWindow     = 16 << 10
	seqpacketWindow = 128 << 10
)

// Device is a virtio socket device. It implements virtio.Device.
type Device struct {
	log          *slog.Logger
	maxConns     int
	window       uint32
	maxBuffer    uint64
	maxSeqpacket int
	backlog      int
	closeTimeout time.Duration

	answers map[uint32]func(client io.Writer) // by port; see Answer

	guestCID atomic.Uint64
	ring     ring
	events   events
	rejects  *logging.Limited
	slices   [maxSlices][]byte // for the transmit loop

	life   sync.Mutex // serializes Activate and Reset
	active *activation

	mu         sync.Mutex // innermost
	ready      bool
	seqpacket  bool // negotiated
	conns      map[connKey]*Conn
	closing    list   // those in stateClosing, oldest first
	slots      int    // connections, and dead ones that hold data
	seqpackets int    // of them
	buffers    uint64 // sum of their receive buffers
	listeners  map[listenKey]*Listener
	nextPort   uint32
}

var _ virtio.Device = (*Device)(nil)

// New returns a device that is not active yet.
func New(o Options) *Device {
	d := &Device{
		log:          o.Log,
		maxConns:     cmp.Or(o.MaxConns, 1024),
		window:       cmp.Or(o.Window, 256<<10),
		maxBuffer:    cmp.Or(o.MaxBuffer, 64<<20),
		backlog:      cmp.Or(o.Backlog, 128),
		closeTimeout: cmp.Or(o.CloseTimeout, 8*time.Second),
		conns:        make(map[connKey]*Conn),
		listeners:    make(map[listenKey]*Listener),
		nextPort:     firstPort,
	}
	d.maxSeqpacket = cmp.Or(o.MaxSeqpacket, max(1, d.maxConns/8))
	if d.log == nil {
		d.log = slog.Default()
	}
	d.guestCID.Store(o.CID)
	d.ring.dev = d
	d.ring.drained.L = &d.ring.mu
	d.rejects = logging.NewLimited(d.log)
	return d
}

// DeviceID implements virtio.Device.
func (d *Device) DeviceID() uint32 { return DeviceID }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureStream | featureSeqpacket }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 {
	return []uint16{queueRX: queueSize, queueTX: queueSize, queueEvent: eventQueueSize}
}

// ReadConfig implements virtio.Device: struct virtio_vsock_config (section
// 5.10.4) is the guest's CID.
func (d *Device) ReadConfig(offset uint64, p []byte) {
	var config [8]byte
	binary.LittleEndian.PutUint64(config[:], d.guestCID.Load())
	clear(p)
	if offset < uint64(len(config)) {
		copy(p, config[offset:])
	}
}

// Connections is how many connections there are, those included that are being
// closed.
func (d *Device) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.slots
}

// WriteConfig implements virtio.Device; nothing is writable.
func (d *Device) WriteConfig(uint64, []byte) {}

// activation is what runs between Activate and Reset.
type activation struct {
	virtio.Activation
	stopped atomic.Bool
	loops   sync.WaitGroup
	failed  sync.Once
}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) != queueCount || a.Queues[queueRX].Queue == nil || a.Queues[queueTX].Queue == nil {
		return errors.New("vsock: the driver has not set up the rx and tx queues")
	}
	d.life.Lock()
	defer d.life.Unlock()
	if d.active != nil {
		return errors.New("vsock: already active")
	}
	act := &activation{Activation: a}
	d.active = act
	d.mu.Lock()
	d.ready = true
	d.seqpacket = a.Features&featureSeqpacket != 0
	d.mu.Unlock()
	d.ring.start(&a.Queues[queueRX])
	act.loops.Go(func() { d.receiveLoop(act) })
	act.loops.Go(func() { d.transmitLoop(act) })
	if a.Queues[queueEvent].Queue != nil {
		d.events.start(&a.Queues[queueEvent])
		act.loops.Go(func() { d.eventLoop(act) })
	}
	return nil
}

// resetTimeout bounds Reset. The loops end as soon as they have run into the
// stopped queues; only an Interrupt or Fail that blocks can hold them up.
const resetTimeout = 2 * time.Second

// Reset implements virtio.Device. Every connection ends with ECONNRESET;
// listeners stay.
func (d *Device) Reset() {
	d.life.Lock()
	defer d.life.Unlock()
	act := d.active
	if act == nil {
		return
	}
	d.active = nil
	d.mu.Lock()
	d.ready = false
	d.mu.Unlock()

	act.stopped.Store(true)
	for _, q := range act.Queues {
		if q.Queue != nil {
			q.Stop()
		}
	}
	d.ring.stop()
	d.events.stop()
	for _, q := range act.Queues {
		if q.Queue != nil {
			q.Kick.Signal() // fails when closed, which ends the loop as well
		}
	}
	done := make(chan struct{})
	go func() {
		act.loops.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(resetTimeout):
		d.log.Error("vsock: queues still busy after reset")
	}
	d.abandonAll(syscall.ECONNRESET)
}

// fail ends an activation whose driver broke the rules.
func (d *Device) fail(act *activation, err error) {
	if act.stopped.Load() {
		return
	}
	act.failed.Do(func() {
		d.mu.Lock()
		d.ready = false
		d.mu.Unlock()
		d.abandonAll(syscall.ECONNRESET)
		act.Fail(err)
	})
}

func (d *Device) abandonAll(err error) {
	d.mu.Lock()
	conns := make([]*Conn, 0, len(d.conns))
	for _, c := range d.conns {
		conns = append(conns, c)
	}
	d.mu.Unlock()
	for _, c := range conns {
		c.abandon(err)
	}
}

// receiveLoop waits for the driver's receive buffers.
func (d *Device) receiveLoop(act *activation) {
	q := &act.Queues[queueRX]
	for {
		if err := d.ring.kicked(); err != nil {
			d.fail(act, err)
			return
		}
		if err := q.Kick.Wait(); err != nil || act.stopped.Load() {
			return
		}
	}
}

// settle does what an operation on c has left to do. The caller holds no lock.
func (d *Device) settle(c *Conn, out outcome, release bool) {
	if out.dead {
		d.mu.Lock()
		if d.conns[c.key] == c {
			delete(d.conns, c.key)
		}
		d.closing.remove(&c.closing)
		d.mu.Unlock()
		d.ring.forget(c)
		if out.reset {
			d.ring.reset(Header{
				SrcCID: HostCID, DstCID: d.guestCID.Load(),
				SrcPort: c.key.host, DstPort: c.key.guest,
				Type: c.typ, Op: OpRst,
			})
		}
	}
	if release {
		d.mu.Lock()
		d.slots--
		if c.typ == TypeSeqpacket {
			d.seqpackets--
		}
		d.buffers -= uint64(c.bufAlloc)
		d.mu.Unlock()
	}
	if out.control {
		d.ring.post(c)
	}
}
