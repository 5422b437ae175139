// Package console is the virtio console device (virtio 1.2, section 5.3) with
// several ports, console sizes and emergency writes.
//
// Each port has its own goroutines and its own bounded buffers: a port whose
// writer does not take the output, or whose reader has no input, holds up
// nothing else, and not the reset of the device either.
package console

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/virtqueue"
)

const deviceID = 3

// Feature bits (section 5.3.3).
const (
	featureSize       = 1 << 0
	featureMultiport  = 1 << 1
	featureEmergWrite = 1 << 2
)

const (
	dataQueueSize    = 64
	controlQueueSize = 64

	// controlRX and controlTX are the indices of the control queues; the
	// queues of port 0 come before them and those of other ports after.
	controlRX = 2
	controlTX = 3
)

// flushTime bounds how long Reset waits for writers to take what the guest
// has written.
const flushTime = 100 * time.Millisecond

// MaxPorts is the largest number of ports a device can have.
const MaxPorts = 16

// Port is one port of a console device.
type Port struct {
	// Name is what the guest finds in /sys/class/virtio-ports/*/name and
	// udev makes /dev/virtio-ports/NAME of; it may be empty.
	Name string

	// Console makes the port a console (hvcN), whose output and input do not
	// depend on the guest having opened it. Port 0 is one for a driver
	// without VIRTIO_CONSOLE_F_MULTIPORT.
	Console bool

	// Out gets the output of the guest, from one goroutine at a time. While a
	// Write blocks, up to 64 KiB are buffered and then the guest is held
	// back. After a Write failed, output is discarded. Nil discards it too.
	Out io.Writer

	// In is the input for the guest. It is read, once the guest has opened the
	// port, as fast as the guest takes it. Its end closes the port if there is
	// no Out. A Read that blocks outlives the device until it returns.
	In io.Reader
}

// Device is a console device.
type Device struct {
	ports []*port

	mu      sync.Mutex
	size    size // of port 0, in the configuration space
	control control
	active  *session

	restored []byte // what the next Activate starts from
}

// session is what runs between Activate and Reset.
type session struct {
	a    virtio.Activation
	stop chan struct{}
	wg   sync.WaitGroup
}

// New makes a device with the ports, of which there must be between one and
// MaxPorts.
func New(ports ...Port) *Device {
	if len(ports) == 0 || len(ports) > MaxPorts {
		panic(fmt.Sprintf("console: %d ports", len(ports)))
	}
	d := &Device{}
	d.control.wake = make(chan struct{}, 1)
	for _, p := range ports {
		d.ports = append(d.ports, newPort(p))
		d.control.ports = append(d.control.ports, portState{name: p.Name, console: p.Console})
	}
	return d
}

// DeviceID implements virtio.Device.
func (d *Device) DeviceID() uint32 { return deviceID }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureSize | featureMultiport | featureEmergWrite }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, 2+2*len(d.ports))
	for i := range sizes {
		sizes[i] = dataQueueSize
	}
	sizes[controlRX], sizes[controlTX] = controlQueueSize, controlQueueSize
	return sizes
}

// queues returns the indices of the receive and transmit queues of a port.
func queues(port int) (rx, tx int) {
	if port == 0 {
		return 0, 1
	}
	return 2 + 2*port, 3 + 2*port
}

// Layout of the configuration space (section 5.3.4).
const (
	configMaxPorts = 4
	configEmergWr  = 8
	configSize     = 12
)

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset uint64, p []byte) {
	var c [configSize]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(c[0:], d.size.cols)
	binary.LittleEndian.PutUint16(c[2:], d.size.rows)
	d.mu.Unlock()
	binary.LittleEndian.PutUint32(c[configMaxPorts:], uint32(len(d.ports)))
	clear(p)
	if offset < configSize {
		copy(p, c[offset:])
	}
}

// WriteConfig implements virtio.Device: a write of emerg_wr is one character
// of output on port 0, which is lost when that is held back.
func (d *Device) WriteConfig(offset uint64, p []byte) {
	if offset == configEmergWr && len(p) > 0 {
		d.ports[0].out.tryAppend(p[0])
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active != nil {
		return errors.New("console: active already")
	}
	s := &session{a: a, stop: make(chan struct{})}
	d.active = s
	multiport := a.Features&featureMultiport != 0
	d.control.reset()
	restored := d.restored
	d.restored = nil
	if multiport {
		if a.Queues[controlRX].Queue == nil || a.Queues[controlTX].Queue == nil {
			return errors.New("console: control queues not enabled")
		}
		s.run("control receiveq", d.sendControl)
		s.run("control transmitq", d.serveControl)
	}
	for i, p := range d.ports {
		open := !multiport || p.Console
		if restored != nil {
			d.control.ports[i].ready = restored[i]&stateReady != 0
			open = open || restored[i]&stateOpen != 0
		}
		p.setOpen(open)
		rx, tx := queues(i)
		if a.Queues[tx].Queue != nil {
			s.run("transmitq", func(s *session) error { return p.transmit(s, a.Queues[tx]) })
		}
		if a.Queues[rx].Queue != nil && p.In != nil {
			s.run("receiveq", func(s *session) error {
				return p.receive(s, a.Queues[rx], func() { d.inputEnded(i) })
			})
		}
		if !multiport {
			break
		}
	}
	return nil
}

// run starts a goroutine of the session. f returns nil once s.stop is closed.
func (s *session) run(name string, f func(*session) error) {
	s.wg.Go(func() {
		if err := f(s); err != nil {
			s.a.Fail(fmt.Errorf("console: %s: %w", name, err))
		}
	})
}

// Reset implements virtio.Device.
func (d *Device) Reset() {
	d.mu.Lock()
	s := d.active
	d.active = nil
	d.mu.Unlock()
	if s == nil {
		return
	}
	// What the goroutines wait for is stop or a kick; none of them is inside
	// a Read or a Write of a port.
	close(s.stop)
	for _, q := range s.a.Queues {
		_ = q.Kick.Signal() // fails only if closed, which wakes them too
	}
	s.wg.Wait()

	timeout := time.NewTimer(flushTime)
	defer timeout.Stop()
	for _, p := range d.ports {
		select {
		case <-p.out.flushed():
		case <-timeout.C:
			return
		}
	}
}

// Resize tells the guest the size of a console in characters. Ports that are
// no console have none.
func (d *Device) Resize(port int, cols, rows uint16) {
	if port < 0 || port >= len(d.ports) || !d.ports[port].Console {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.ports[port].size = size{cols, rows}
	d.control.ports[port].pending |= pendingResize
	d.control.signal()
	if port == 0 {
		d.size = size{cols, rows}
		if d.active != nil {
			d.active.a.ConfigChanged()
		}
	}
}

// inputEnded closes a port that will have no more input and takes no output.
func (d *Device) inputEnded(port int) {
	if d.ports[port].Out != nil || d.ports[port].Console {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.ports[port].closed = true
	d.control.ports[port].pending |= pendingOpen
	d.control.signal()
}

// serveControl handles what the driver says.
func (d *Device) serveControl(s *session) error {
	return s.a.Queues[controlTX].Serve(s.stop, func(c *virtqueue.Chain) (uint32, error) {
		if len(c.Writable) != 0 {
			return 0, errors.New("writable buffer")
		}
		var b [controlSize]byte
		if virtqueue.CopyOut(b[:], c.Readable) != len(b) {
			return 0, errors.New("message too short")
		}
		return 0, d.handle(parseControl(b))
	})
}

// handle acts on one message of the driver.
func (d *Device) handle(m controlMessage) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	opened, err := d.control.handle(m)
	if err != nil {
		return err
	}
	if opened {
		p := d.ports[m.id]
		p.setOpen(m.value != 0 || p.Console)
	}
	return nil
}

// sendControl sends the pending messages as the driver gives buffers for them.
func (d *Device) sendControl(s *session) error {
	q := s.a.Queues[controlRX]
	for {
		c, ok, err := q.Next(s.stop)
		if err != nil || !ok {
			return err
		}
		if len(c.Readable) != 0 {
			return errors.New("readable buffer")
		}
		m := d.nextControl(s.stop)
		if m == nil {
			return nil
		}
		if n := virtqueue.CopyIn(c.Writable, m); n != len(m) {
			return fmt.Errorf("buffer of %d bytes for a message of %d", n, len(m))
		}
		head := c.Head
		c.Release()
		if err := q.Done(head, uint32(len(m))); err != nil {
			return err
		}
	}
}

// nextControl waits for a message to be sent; nil means that stop is closed.
func (d *Device) nextControl(stop <-chan struct{}) []byte {
	for {
		d.mu.Lock()
		m := d.control.next()
		d.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-d.control.wake:
		case <-stop:
			return nil
		}
	}
}
