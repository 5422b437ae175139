package vmm

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"runv.dev/runv/vmm/kvm"
)

// routeRecorder stands in for KVM_SET_GSI_ROUTING.
type routeRecorder struct {
	routes []kvm.Route
	calls  int
	err    error
	failed error
}

func (r *routeRecorder) route(routes []kvm.Route) error {
	r.calls++
	r.routes = routes
	return r.err
}

func (r *routeRecorder) ioapic(pins int) *ioapic {
	return newIOAPIC(pins, r.route, func(err error) { r.failed = err })
}

func readReg(a *ioapic, reg uint32) uint32 {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], reg)
	a.Write(0, p[:])
	a.Read(0x10, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func writeReg(a *ioapic, reg, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], reg)
	a.Write(0, p[:])
	binary.LittleEndian.PutUint32(p[:], v)
	a.Write(0x10, p[:])
}

func TestIOAPICRegisters(t *testing.T) {
	a := new(routeRecorder).ioapic(3)
	for _, tc := range []struct{ reg, want uint32 }{
		{0x00, 0}, {0x01, 0x00020011}, {0x02, 0}, {0x10, 0x10000}, {0x11, 0}, {0x15, 0}, {0x16, 0xffffffff}, {0xff, 0xffffffff},
	} {
		if got := readReg(a, tc.reg); got != tc.want {
			t.Errorf("register %#x = %#x after reset; want %#x", tc.reg, got, tc.want)
		}
	}
	for _, tc := range []struct{ reg, write, want uint32 }{
		{0x00, 0xffffffff, 0x0f000000},
		{0x01, 0, 0x00020011},
		{0x12, 0xffffffff, 0x0001afff}, // delivery status and remote IRR are read-only
		{0x13, 0xffffffff, 0xff000000},
		{0x16, 0, 0xffffffff},
	} {
		writeReg(a, tc.reg, tc.write)
		if got := readReg(a, tc.reg); got != tc.want {
			t.Errorf("register %#x = %#x after %#x was written; want %#x", tc.reg, got, tc.write, tc.want)
		}
	}
}

func TestIOAPICWidths(t *testing.T) {
	a := new(routeRecorder).ioapic(3)
	for _, n := range []int{1, 2, 8} {
		p := make([]byte, n)
		a.Read(0, p)
		for _, b := range p {
			if b != 0xff {
				t.Errorf("a read of %d bytes = % x", n, p)
			}
		}
		p[0] = 1
		a.Write(0, p)
		if a.selected != 0 {
			t.Errorf("a write of %d bytes has an effect", n)
		}
	}
	p := make([]byte, 4)
	for _, off := range []uint64{1, 4, 0x11, 0x40, 4092} {
		a.Read(off, p)
		if binary.LittleEndian.Uint32(p) != 0xffffffff {
			t.Errorf("read at %#x = % x", off, p)
		}
	}
}

func TestIOAPICRoutes(t *testing.T) {
	var r routeRecorder
	a := r.ioapic(4)
	route := func(gsi uint32, addr uint64, data uint32) kvm.Route {
		return kvm.Route{GSI: gsi, MSI: kvm.MSI{Addr: addr, Data: data}}
	}
	for _, step := range []struct {
		name     string
		reg, val uint32
		want     []kvm.Route
		calls    int
	}{
		{"masked", 0x12, 0x10021, nil, 0},
		{"destination of a masked pin", 0x13, 0x03000000, nil, 0},
		{"unmasked", 0x12, 0x21, []kvm.Route{route(1, 0xfee03000, 0x21)}, 1},
		{"again", 0x12, 0x21, []kvm.Route{route(1, 0xfee03000, 0x21)}, 1},
		{"level is delivered as edge", 0x12, 0x8021, []kvm.Route{route(1, 0xfee03000, 0x21)}, 1},
		{"lowest priority, logical", 0x14, 0x922, []kvm.Route{route(1, 0xfee03000, 0x21), route(2, 0xfee0000c, 0x122)}, 2},
		{"moved", 0x13, 0x01000000, []kvm.Route{route(1, 0xfee01000, 0x21), route(2, 0xfee0000c, 0x122)}, 3},
		{"NMI is not delivered", 0x14, 0x422, []kvm.Route{route(1, 0xfee01000, 0x21)}, 4},
		{"a reserved vector", 0x12, 0x0f, nil, 5},
		{"a pin that is not there", 0x18, 0x30, nil, 5},
	} {
		writeReg(a, step.reg, step.val)
		if !reflect.DeepEqual(r.routes, step.want) || r.calls != step.calls {
			t.Errorf("%s: %x after %d calls; want %x after %d", step.name, r.routes, r.calls, step.want, step.calls)
		}
	}
	if r.failed != nil {
		t.Error(r.failed)
	}
	r.err = errors.New("refused")
	writeReg(a, 0x12, 0x21)
	if !errors.Is(r.failed, r.err) {
		t.Errorf("failure = %v; want %v", r.failed, r.err)
	}
}

// FuzzBus drives the bus with arbitrary accesses: each takes 12 bytes.
func FuzzBus(f *testing.F) {
	access := func(write bool, addr uint64, n byte, v uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		if write {
			n |= 0x80
		}
		return append(b, n, 0, byte(v), byte(v>>8))
	}
	f.Add(append(access(true, ioapicBase, 4, 0x12), access(true, ioapicBase+0x10, 4, 0x21)...))
	f.Add(append(access(true, ioapicBase, 4, 0xff), access(false, ioapicBase+0x10, 4, 0)...))
	f.Add(access(false, ioapicBase+4095, 8, 0))
	f.Add(access(false, deviceBase+4096, 1, 0))
	f.Add(access(true, ^uint64(0), 8, 0xffff))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r routeRecorder
		a := r.ioapic(5)
		dev := &page{t: t}
		b := bus{base: deviceBase, devices: []mmioHandler{dev, dev}, ioapic: a}
		for ; len(in) >= 12; in = in[12:] {
			addr := binary.LittleEndian.Uint64(in)
			p := make([]byte, 1+in[8]&7)
			copy(p, in[10:12])
			if in[8]&0x80 != 0 {
				b.write(addr, p)
			} else {
				b.read(addr, p)
			}
		}
		if r.failed != nil || len(r.routes) > 5 {
			t.Errorf("routes %v, failure %v", r.routes, r.failed)
		}
		for _, x := range r.routes {
			if x.GSI >= 5 || x.MSI.Addr>>20 != 0xfee || x.MSI.Data&0xff < 16 {
				t.Errorf("route %+v", x)
			}
		}
	})
}

// page checks what the bus promises to handlers.
type page struct {
	t             testing.TB
	reads, writes int
}

func (d *page) check(offset uint64, p []byte) {
	if len(p) < 1 || len(p) > 8 || offset+uint64(len(p)) > 4096 {
		d.t.Errorf("access of %d bytes at %#x", len(p), offset)
	}
}

func (d *page) Read(offset uint64, p []byte) {
	d.check(offset, p)
	d.reads++
	clear(p)
}

func (d *page) Write(offset uint64, p []byte) {
	d.check(offset, p)
	d.writes++
}
