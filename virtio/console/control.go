package console

import (
	"encoding/binary"
	"fmt"
)

// Events of control messages (section 5.3.6.2).
const (
	eventDeviceReady = 0
	eventPortAdd     = 1
	eventPortReady   = 3
	eventConsolePort = 4
	eventResize      = 5
	eventPortOpen    = 6
	eventPortName    = 7
)

// controlSize is the size of struct virtio_console_control.
const controlSize = 8

type controlMessage struct {
	id    uint32 // port
	event uint16
	value uint16
}

func parseControl(b [controlSize]byte) controlMessage {
	return controlMessage{
		id:    binary.LittleEndian.Uint32(b[0:]),
		event: binary.LittleEndian.Uint16(b[4:]),
		value: binary.LittleEndian.Uint16(b[6:]),
	}
}

func (m controlMessage) bytes() []byte {
	b := make([]byte, controlSize)
	binary.LittleEndian.PutUint32(b[0:], m.id)
	binary.LittleEndian.PutUint16(b[4:], m.event)
	binary.LittleEndian.PutUint16(b[6:], m.value)
	return b
}

type size struct{ cols, rows uint16 }

// pending is a set of messages to be sent about a port. A set and not a list:
// a driver that asks again and again gets one answer when it makes room for
// it, and cannot make the device hoard messages.
type pending uint8

const (
	pendingAdd pending = 1 << iota
	pendingConsole
	pendingResize
	pendingName
	pendingOpen
)

// portState is what the control queues say about a port.
type portState struct {
	name    string
	console bool
	size    size
	ready   bool // the driver has it
	closed  bool // on the host's side
	pending pending
}

// control is the state of the control queues, guarded by Device.mu.
type control struct {
	wake  chan struct{} // a message became pending
	ports []portState
}

// reset forgets what a driver was told.
func (c *control) reset() {
	for i := range c.ports {
		c.ports[i].ready, c.ports[i].pending = false, 0
	}
}

func (c *control) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// handle acts on a message of the driver. It reports whether the message
// opened or closed a port.
func (c *control) handle(m controlMessage) (opened bool, err error) {
	if m.event == eventDeviceReady {
		if m.value == 0 {
			return false, nil // the driver has given up
		}
		for i := range c.ports {
			c.ports[i].pending |= pendingAdd
		}
		c.signal()
		return false, nil
	}
	if m.event != eventPortReady && m.event != eventPortOpen {
		return false, nil // of a later specification
	}
	if m.id >= uint32(len(c.ports)) {
		return false, fmt.Errorf("event %d for port %d, which is not there", m.event, m.id)
	}
	if m.event == eventPortOpen {
		return true, nil
	}
	p := &c.ports[m.id]
	p.ready = m.value != 0
	if !p.ready {
		return false, nil
	}
	p.pending |= pendingOpen
	if p.name != "" {
		p.pending |= pendingName
	}
	if p.console {
		p.pending |= pendingConsole
		if p.size != (size{}) {
			p.pending |= pendingResize
		}
	}
	c.signal()
	return false, nil
}

// next takes the next message to be sent off the set; nil if it is empty.
func (c *control) next() []byte {
	for i := range c.ports {
		p := &c.ports[i]
		can := p.pending
		if !p.ready {
			can &= pendingAdd // of the others the driver must not be told yet
		}
		if can == 0 {
			continue
		}
		first := can & -can
		p.pending &^= first
		m := controlMessage{id: uint32(i), value: 1}
		switch first {
		case pendingAdd:
			m.event = eventPortAdd
		case pendingConsole:
			m.event = eventConsolePort
		case pendingResize:
			m.event = eventResize
			b := binary.LittleEndian.AppendUint16(m.bytes(), p.size.cols)
			return binary.LittleEndian.AppendUint16(b, p.size.rows)
		case pendingName:
			m.event = eventPortName
			return append(m.bytes(), p.name...)
		case pendingOpen:
			m.event = eventPortOpen
			if p.closed {
				m.value = 0
			}
		}
		return m.bytes()
	}
	return nil
}
