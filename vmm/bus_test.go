package vmm

import (
	"bytes"
	"testing"

	"runv.dev/runv/vmm/kvm"
)

func TestBus(t *testing.T) {
	for _, tc := range []struct {
		name  string
		addr  uint64
		n     int
		first bool // reaches the first device
		last  bool // reaches the last device
	}{
		{"before", 0xcfffffff, 1, false, false},
		{"into the first", 0xcfffffff, 2, false, false},
		{"first", 0xd0000000, 4, true, false},
		{"end of the first", 0xd0000ff8, 8, true, false},
		{"across the end", 0xd0000fff, 2, false, false},
		{"last", 0xd0001ffc, 4, false, true},
		{"behind", 0xd0002000, 4, false, false},
		{"wraps", ^uint64(0), 8, false, false},
		{"above 4 GiB", 0x1d0000000, 4, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first, last, chip := &page{t: t}, &page{t: t}, &page{t: t}
			b := bus{base: deviceBase, devices: []mmioHandler{first, last}, ioapic: chip}
			p := bytes.Repeat([]byte{0x55}, tc.n)
			b.read(tc.addr, p)
			b.write(tc.addr, p)
			want := byte(0xff)
			if tc.first || tc.last {
				want = 0
			}
			if p[0] != want || p[tc.n-1] != want {
				t.Errorf("read % x; want %#x", p, want)
			}
			for d, hit := range map[*page]bool{first: tc.first, last: tc.last, chip: false} {
				n := 0
				if hit {
					n = 1
				}
				if d.reads != n || d.writes != n {
					t.Errorf("%d reads and %d writes; want %d", d.reads, d.writes, n)
				}
			}
		})
	}
	chip := &page{t: t}
	b := bus{base: deviceBase, ioapic: chip}
	b.write(0xfec00010, make([]byte, 4))
	b.write(0xfee00000, make([]byte, 4))
	if chip.writes != 1 {
		t.Errorf("%d writes to the IOAPIC", chip.writes)
	}
}

func TestPIO(t *testing.T) {
	for _, tc := range []struct {
		name  string
		io    kvm.IO
		reset bool
		want  []byte // of an input
	}{
		{"keyboard reset", kvm.IO{Out: true, Size: 1, Port: 0x64, Data: []byte{0xfe}}, true, nil},
		{"keyboard command", kvm.IO{Out: true, Size: 1, Port: 0x64, Data: []byte{0xfd}}, false, nil},
		{"string output", kvm.IO{Out: true, Size: 1, Port: 0x64, Data: []byte{0, 0xfe}}, true, nil},
		{"wide output", kvm.IO{Out: true, Size: 2, Port: 0x64, Data: []byte{0, 0xfe}}, false, nil},
		{"reset control", kvm.IO{Out: true, Size: 1, Port: 0xcf9, Data: []byte{6}}, true, nil},
		{"reset control, prepare", kvm.IO{Out: true, Size: 1, Port: 0xcf9, Data: []byte{2}}, false, nil},
		{"delay", kvm.IO{Out: true, Size: 1, Port: 0x80, Data: []byte{0xfe}}, false, nil},
		{"keyboard status", kvm.IO{Size: 1, Port: 0x64, Data: []byte{0x55}}, false, []byte{0}},
		{"CMOS", kvm.IO{Size: 1, Port: 0x71, Data: []byte{0x55}}, false, []byte{0}},
		{"interrupt controller", kvm.IO{Size: 1, Port: 0x21, Data: []byte{0x55}}, false, []byte{0xff}},
		{"string input", kvm.IO{Size: 4, Port: 0x1f0, Data: make([]byte, 8)}, false, bytes.Repeat([]byte{0xff}, 8)},
		{"nothing", kvm.IO{Size: 4, Port: 0x64, Data: nil}, false, nil},
	} {
		reset := pio(tc.io)
		if reset != tc.reset || tc.want != nil && !bytes.Equal(tc.io.Data, tc.want) {
			t.Errorf("%s: reset %t, data % x; want %t, % x", tc.name, reset, tc.io.Data, tc.reset, tc.want)
		}
	}
}

func FuzzPIO(f *testing.F) {
	f.Add(true, byte(1), uint16(0x64), []byte{0xfe})
	f.Add(false, byte(4), uint16(0x71), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, out bool, size byte, port uint16, data []byte) {
		n := 1 << (size % 3)
		data = data[:len(data)/n*n]
		reset := pio(kvm.IO{Out: out, Size: n, Port: port, Data: data})
		if reset && (!out || port != 0x64 && port != 0xcf9) {
			t.Errorf("reset by port %#x", port)
		}
	})
}
