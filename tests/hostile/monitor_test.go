package hostile

import (
	"encoding/binary"
	"sync"
	"time"

	"runv.dev/runv/virtio"
)

// Registers of the monitor in its configuration space; see guest/lib.c.
const (
	regSay    = 0
	regResult = 4
	regAsk    = 8
	regSleep  = 12
	regGo     = 16
	regPing   = 20
)

// monitor is the device by which a guest talks to its test. It has no queues,
// and as it is the test's, reads of it may block the vCPU.
type monitor struct {
	ask func(what uint32) uint32

	mu     sync.Mutex
	said   []byte
	result uint32 // 1 passed, 2 failed
	answer uint32

	done    chan struct{} // closed with the first result
	proceed chan struct{} // closed to let the guest go on after it
	pings   chan struct{}
	enough  chan struct{} // closed: no more pings
	pongs   chan struct{}
}

func newMonitor(ask func(uint32) uint32) *monitor {
	return &monitor{
		ask:     ask,
		done:    make(chan struct{}),
		proceed: make(chan struct{}),
		pings:   make(chan struct{}),
		enough:  make(chan struct{}),
		pongs:   make(chan struct{}, 1),
	}
}

var _ virtio.Device = (*monitor)(nil)

func (m *monitor) DeviceID() uint32                 { return 0x7ffe }
func (m *monitor) Features() uint64                 { return 0 }
func (m *monitor) QueueSizes() []uint16             { return nil }
func (m *monitor) Activate(virtio.Activation) error { return nil }
func (m *monitor) Reset()                           {}

// maxSaid bounds what a guest can say.
const maxSaid = 4 << 10

func (m *monitor) WriteConfig(offset uint64, p []byte) {
	if len(p) != 4 {
		return
	}
	v := binary.LittleEndian.Uint32(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch offset {
	case regSay:
		if len(m.said) < maxSaid {
			m.said = append(m.said, byte(v))
		}
	case regResult:
		if m.result == 0 {
			m.result = v
			close(m.done)
		}
	case regAsk:
		m.answer = m.ask(v)
	case regPing:
		select {
		case m.pongs <- struct{}{}:
		default:
		}
	}
}

func (m *monitor) ReadConfig(offset uint64, p []byte) {
	clear(p)
	if len(p) != 4 {
		return
	}
	var v uint32
	switch offset {
	case regAsk:
		m.mu.Lock()
		v = m.answer
		m.mu.Unlock()
	case regSleep:
		time.Sleep(time.Millisecond)
	case regGo:
		<-m.proceed
	case regPing:
		select {
		case <-m.pings:
			v = 1
		case <-m.enough:
		}
	}
	binary.LittleEndian.PutUint32(p, v)
}

// text is what the guest has said.
func (m *monitor) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.said)
}
