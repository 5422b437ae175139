package boot

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"runv.dev/runv/internal/guestmem"
)

func TestE820(t *testing.T) {
	low := e820Entry{0, 0x9fc00, e820RAM}
	bios := e820Entry{0xf0000, 0x10000, e820Reserved}
	for _, tc := range []struct {
		name    string
		regions []guestmem.Region
		want    []e820Entry
	}{
		{"small", []guestmem.Region{ram(0, 16<<20)}, []e820Entry{low, bios, {1 << 20, 15 << 20, e820RAM}}},
		{
			"both sides of the gap", []guestmem.Region{ram(0, 16<<20), ram(GapEnd, 4<<20)},
			[]e820Entry{low, bios, {1 << 20, 15 << 20, e820RAM}, {4 << 30, 4 << 20, e820RAM}},
		},
	} {
		if got := e820(tc.regions); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: e820 = %x; want %x", tc.name, got, tc.want)
		}
	}
}

func load(t *testing.T, mem *guestmem.Memory, p Params) (Entry, error) {
	t.Helper()
	if p.Kernel == nil {
		p.Kernel = reader(validELF().bytes(t))
	}
	if p.VCPUs == 0 {
		p.VCPUs = 2
	}
	return Load(mem, p)
}

func TestLoad(t *testing.T) {
	const size = 32 << 20
	mem := newMemory(t, ram(0, size), ram(GapEnd, 4<<20))
	initrd := bytes.Repeat([]byte{0xaa}, 5000)
	seed := bytes.Repeat([]byte{0x55}, 32)
	const cmdline = "console=hvc0 quiet"
	e, err := load(t, mem, Params{Initrd: reader(initrd), Cmdline: cmdline, Pins: []uint8{1, 2}, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{RIP: kernelAddr + 0x10, RSP: 0x8ff0, RSI: 0x7000, CR3: 0x9000, GDTBase: 0x500, GDTLimit: 31}
	if e != want {
		t.Errorf("entry = %+v; want %+v", e, want)
	}

	zp, err := mem.Slice(0x7000, 4096)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	const initrdAddr = size - 8192
	for _, f := range []struct {
		name      string
		off, size int
		want      uint64
	}{
		{"ext_ramdisk_image", 0x0c0, 4, 0},
		{"e820_entries", 0x1e8, 1, 4},
		{"sentinel", 0x1ef, 1, 0},
		{"boot_flag", 0x1fe, 2, 0xaa55},
		{"header", 0x202, 4, 0x53726448},
		{"version", 0x206, 2, 0x20f},
		{"type_of_loader", 0x210, 1, 0xff},
		{"ramdisk_image", 0x218, 4, initrdAddr},
		{"ramdisk_size", 0x21c, 4, 5000},
		{"cmd_line_ptr", 0x228, 4, 0x20000},
		{"cmdline_size", 0x238, 4, uint64(len(cmdline))},
		{"setup_data", 0x250, 8, 0xc000},
		{"e820_table[0].size", 0x2d8, 8, 0x9fc00},
		{"e820_table[2].addr", 0x2d0 + 40, 8, 0x100000},
		{"e820_table[3].addr", 0x2d0 + 60, 8, 1 << 32},
		{"e820_table[3].type", 0x2d0 + 76, 4, 1},
	} {
		var b [8]byte
		copy(b[:f.size], zp[f.off:])
		if got := le.Uint64(b[:]); got != f.want {
			t.Errorf("%s = %#x; want %#x", f.name, got, f.want)
		}
	}
	for _, m := range []struct {
		name string
		addr uint64
		want []byte
	}{
		{"command line", 0x20000, []byte(cmdline + "\x00")},
		{"initrd", initrdAddr, initrd},
		{"setup_data", 0xc000, append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0}, seed...)},
		{"MP floating pointer", 0xf0000, []byte("_MP_\x10\x00\x0f\x00\x01\x04")},
		{"code descriptor", 0x510, []byte{0xff, 0xff, 0, 0, 0, 0x9b, 0xaf, 0}},
		{"data descriptor", 0x518, []byte{0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0}},
		{"kernel", kernelAddr, []byte{0xcc, 0xcc}},
	} {
		got := make([]byte, len(m.want))
		if err := mem.ReadAt(got, m.addr); err != nil || !bytes.Equal(got, m.want) {
			t.Errorf("%s at %#x = % x, %v; want % x", m.name, m.addr, got, err, m.want)
		}
	}
}

// TestPageTables walks them as a processor does.
func TestPageTables(t *testing.T) {
	mem := newMemory(t, ram(0, 32<<20))
	e, err := load(t, mem, Params{})
	if err != nil {
		t.Fatal(err)
	}
	entry := func(table, index uint64) uint64 {
		v, err := mem.LoadUint64(table&^0xfff + 8*index)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, addr := range []uint64{0, 0x7000, kernelAddr, 1<<30 - 1} {
		pml4e := entry(e.CR3, addr>>39)
		pdpte := entry(pml4e, addr>>30&511)
		pde := entry(pdpte, addr>>21&511)
		if pml4e&3 != 3 || pdpte&0x83 != 3 || pde&0x83 != 0x83 || pde&^0x1fffff != addr&^0x1fffff {
			t.Errorf("%#x: %#x, %#x, %#x", addr, pml4e, pdpte, pde)
		}
	}
	if e := entry(entry(e.CR3, 0), 1); e != 0 {
		t.Errorf("1 GiB is mapped: %#x", e)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		mem  []guestmem.Region
		p    Params
	}{
		{"no memory", nil, Params{}},
		{"memory elsewhere", []guestmem.Region{ram(GapEnd, 32<<20)}, Params{}},
		{"1 MiB", []guestmem.Region{ram(0, 1<<20)}, Params{}},
		{"too little for the kernel", []guestmem.Region{ram(0, kernelAddr)}, Params{}},
		{"too little for the initrd", []guestmem.Region{ram(0, kernelAddr+0x4000)}, Params{Initrd: reader([]byte{1})}},
		{"initrd in the kernel", []guestmem.Region{ram(0, kernelAddr+0x5000)}, Params{Initrd: reader(make([]byte, 0x1001))}},
		{"long command line", []guestmem.Region{ram(0, 32<<20)}, Params{Cmdline: strings.Repeat("x", 2048)}},
		{"NUL in the command line", []guestmem.Region{ram(0, 32<<20)}, Params{Cmdline: "a\x00b"}},
		{"newline in the command line", []guestmem.Region{ram(0, 32<<20)}, Params{Cmdline: "a\nb"}},
		{"255 processors", []guestmem.Region{ram(0, 32<<20)}, Params{VCPUs: 255}},
		{"no kernel", []guestmem.Region{ram(0, 32<<20)}, Params{Kernel: reader(nil)}},
		{"huge seed", []guestmem.Region{ram(0, 32<<20)}, Params{Seed: make([]byte, 4096)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if e, err := load(t, newMemory(t, tc.mem...), tc.p); err == nil {
				t.Errorf("Load = %+v", e)
			} else {
				t.Log(err)
			}
		})
	}
	if _, err := load(t, newMemory(t, ram(0, 32<<20)), Params{Cmdline: strings.Repeat("x", 2047)}); err != nil {
		t.Errorf("the longest command line: %v", err)
	}
	if _, err := load(t, newMemory(t, ram(0, kernelAddr+0x5000)), Params{Initrd: reader(make([]byte, 0x1000))}); err != nil {
		t.Errorf("the largest initrd: %v", err)
	}
}

func sum(b []byte) (s byte) {
	for _, x := range b {
		s += x
	}
	return s
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 2, 64, MaxVCPUs} {
		b, err := mpTable(0xf0000, cpus, []uint8{1, 5, 23})
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > biosEnd-mpTableAddr {
			t.Fatalf("%d CPUs: %d bytes", cpus, len(b))
		}
		le := binary.LittleEndian
		f, c := b[:16], b[16:]
		if string(f[:4]) != "_MP_" || le.Uint32(f[4:]) != 0xf0010 || f[8] != 1 || f[9] != 4 || sum(f) != 0 || f[11] != 0 {
			t.Errorf("%d CPUs: floating pointer % x", cpus, f)
		}
		if string(c[:4]) != "PCMP" || int(le.Uint16(c[4:])) != len(c) || c[6] != 4 || sum(c) != 0 || le.Uint32(c[36:]) != 0xfee00000 {
			t.Errorf("%d CPUs: header % x", cpus, c[:44])
		}
		count := map[byte]int{}
		var bsp, pins []byte
		n := 0
		for e := c[44:]; len(e) > 0; n++ {
			count[e[0]]++
			size := 8
			switch e[0] {
			case 0:
				size = 20
				if int(e[1]) != count[0]-1 || e[3]&1 == 0 {
					t.Errorf("processor % x", e[:20])
				}
				if e[3]&2 != 0 {
					bsp = append(bsp, e[1])
				}
			case 1:
				if string(e[1:8]) != "\x00ISA   " {
					t.Errorf("bus % x", e[:8])
				}
			case 2:
				if e[1] != byte(cpus) || e[3] != 1 || le.Uint32(e[4:]) != 0xfec00000 {
					t.Errorf("IOAPIC % x", e[:8])
				}
			case 3:
				if e[1] != 0 || le.Uint16(e[2:]) != 5 || e[4] != 0 || e[5] != e[7] || e[6] != byte(cpus) {
					t.Errorf("interrupt % x", e[:8])
				}
				pins = append(pins, e[7])
			}
			e = e[size:]
		}
		if int(le.Uint16(c[34:])) != n {
			t.Errorf("%d CPUs: %d entries; the header says %d", cpus, n, le.Uint16(c[34:]))
		}
		if want := map[byte]int{0: cpus, 1: 1, 2: 1, 3: 3, 4: 2}; !reflect.DeepEqual(count, want) {
			t.Errorf("%d CPUs: entries %v; want %v", cpus, count, want)
		}
		if !bytes.Equal(bsp, []byte{0}) || !bytes.Equal(pins, []byte{1, 5, 23}) {
			t.Errorf("%d CPUs: boot processors %v, pins %v", cpus, bsp, pins)
		}
	}
	for _, cpus := range []int{0, -1, 255} {
		if _, err := mpTable(0xf0000, cpus, nil); err == nil {
			t.Errorf("a table of %d processors", cpus)
		}
	}
}
