package vmm

import (
	"encoding/binary"
	"slices"
	"sync"

	"runv.dev/runv/vmm/kvm"
)

// maxPins is the size of the 82093AA.
const maxPins = 24

// Registers of the IOAPIC (82093AA data sheet, section 3).
const (
	ioapicSelect = 0x00
	ioapicWindow = 0x10

	ioapicRegID          = 0x00
	ioapicRegVersion     = 0x01
	ioapicRegArbitration = 0x02
	ioapicRegRedirection = 0x10

	ioapicVersion = 0x11
	ioapicIDMask  = 0x0f000000

	redirVector       = 0xff
	redirDelivery     = 7 << 8
	redirLogical      = 1 << 11
	redirLevel        = 1 << 15
	redirMasked       = 1 << 16
	redirDestShift    = 56
	redirWritable     = redirVector | redirDelivery | redirLogical | 1<<13 | redirLevel | redirMasked | 0xff<<redirDestShift
	deliveryFixed     = 0 << 8
	deliveryLowest    = 1 << 8
	msiBase           = 0xfee00000
	msiDestShift      = 12
	msiRedirectHint   = 1 << 3
	msiLogical        = 1 << 2
	lowestValidVector = 16
)

// ioapic is the part of the split interrupt chip that is left to userspace.
// It only keeps the redirection table: an entry that is not masked becomes the
// kernel's MSI route of the GSI with the pin's number, and devices raise that
// through irqfds. All pins are edge-triggered: an entry set to level is
// delivered as edge, never waits for an EOI and never shows a remote IRR.
type ioapic struct {
	pins  int
	route func([]kvm.Route) error // replaces all routes
	fail  func(error)

	mu        sync.Mutex
	selected  uint8
	id        uint32
	redir     [maxPins]uint64
	installed []kvm.Route
}

func newIOAPIC(pins int, route func([]kvm.Route) error, fail func(error)) *ioapic {
	a := &ioapic{pins: pins, route: route, fail: fail}
	for i := range a.redir {
		a.redir[i] = redirMasked
	}
	return a
}

// Read implements mmioHandler. Anything but an aligned 32-bit access of a
// register reads as all ones.
func (a *ioapic) Read(offset uint64, p []byte) {
	v := ^uint32(0)
	if len(p) == 4 {
		a.mu.Lock()
		switch offset {
		case ioapicSelect:
			v = uint32(a.selected)
		case ioapicWindow:
			v = a.load()
		}
		a.mu.Unlock()
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	for i := range p {
		p[i] = b[i%4]
	}
}

// Write implements mmioHandler. Anything but an aligned 32-bit access of a
// register is ignored.
func (a *ioapic) Write(offset uint64, p []byte) {
	if len(p) != 4 {
		return
	}
	v := binary.LittleEndian.Uint32(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch offset {
	case ioapicSelect:
		a.selected = uint8(v)
	case ioapicWindow:
		a.store(v)
	}
}

// load reads the selected register.
func (a *ioapic) load() uint32 {
	switch a.selected {
	case ioapicRegID, ioapicRegArbitration:
		return a.id
	case ioapicRegVersion:
		return ioapicVersion | uint32(a.pins-1)<<16
	}
	if pin, high, ok := a.redirection(); ok {
		if high {
			return uint32(a.redir[pin] >> 32)
		}
		return uint32(a.redir[pin])
	}
	return ^uint32(0)
}

// store writes the selected register.
func (a *ioapic) store(v uint32) {
	if a.selected == ioapicRegID {
		a.id = v & ioapicIDMask
		return
	}
	pin, high, ok := a.redirection()
	if !ok {
		return
	}
	e := a.redir[pin]
	if high {
		e = e&0xffffffff | uint64(v)<<32
	} else {
		e = e&^0xffffffff | uint64(v)
	}
	a.redir[pin] = e & redirWritable
	a.update()
}

// redirection says which half of which entry is selected.
func (a *ioapic) redirection() (pin int, high, ok bool) {
	n := int(a.selected) - ioapicRegRedirection
	return n / 2, n%2 == 1, n >= 0 && n/2 < a.pins
}

// update hands the routes to the kernel if they have changed. The call waits
// for a grace period, which is why what has no effect must not reach it.
func (a *ioapic) update() {
	var routes []kvm.Route
	for pin := range a.pins {
		if m, ok := message(a.redir[pin]); ok {
			routes = append(routes, kvm.Route{GSI: uint32(pin), MSI: m})
		}
	}
	if slices.Equal(routes, a.installed) {
		return
	}
	if err := a.route(routes); err != nil {
		a.fail(err)
		return
	}
	a.installed = routes
}

// message translates a redirection entry. Deliveries other than fixed and
// lowest priority have no source here and are dropped.
func message(e uint64) (kvm.MSI, bool) {
	delivery := e & redirDelivery
	if e&redirMasked != 0 || e&redirVector < lowestValidVector ||
		delivery != deliveryFixed && delivery != deliveryLowest {
		return kvm.MSI{}, false
	}
	m := kvm.MSI{
		Addr: msiBase | e>>redirDestShift<<msiDestShift,
		Data: uint32(e & (redirVector | redirDelivery)),
	}
	if e&redirLogical != 0 {
		m.Addr |= msiLogical
	}
	if delivery == deliveryLowest {
		m.Addr |= msiRedirectHint
	}
	return m, true
}
