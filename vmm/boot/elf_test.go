package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"testing"

	"runv.dev/runv/internal/guestmem"
)

const kernelAddr = 0x1000000

type elfFile struct {
	header elf.Header64
	progs  []elf.Prog64
	data   []byte // at the end of the headers
}

// validELF has two segments of a page each, the second with as much again of
// zeroes behind it.
func validELF() *elfFile {
	f := &elfFile{
		header: elf.Header64{
			Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: kernelAddr + 0x10, Phoff: elfHeaderSize, Ehsize: elfHeaderSize, Phentsize: elfProgSize, Phnum: 3,
		},
		data: append(bytes.Repeat([]byte{0xcc}, pageSize), bytes.Repeat([]byte{0xdd}, pageSize)...),
	}
	copy(f.header.Ident[:], elf.ELFMAG)
	f.header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	f.header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	const off = elfHeaderSize + 3*elfProgSize
	f.progs = []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: off + pageSize,
			Vaddr: 0xffffffff81002000, Paddr: kernelAddr + 0x2000, Filesz: pageSize, Memsz: 2 * pageSize,
		},
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: off,
			Vaddr: 0xffffffff81000000, Paddr: kernelAddr, Filesz: pageSize, Memsz: pageSize,
		},
		{Type: uint32(elf.PT_NOTE), Off: 1 << 60, Filesz: 1 << 60},
	}
	return f
}

func (f *elfFile) bytes(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, v := range []any{f.header, f.progs} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(f.data)
	return b.Bytes()
}

func reader(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func newMemory(t testing.TB, regions ...guestmem.Region) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.New(regions...)
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

func ram(addr, size uint64) guestmem.Region {
	return guestmem.Region{Addr: addr, Data: make([]byte, size)}
}

func TestELF(t *testing.T) {
	b := validELF().bytes(t)
	img, err := parseELF(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if img.entry != kernelAddr+0x10 || img.end != kernelAddr+0x4000 || len(img.segments) != 2 {
		t.Errorf("image = %+v", img)
	}
	mem := newMemory(t, ram(0, 32<<20))
	if err := img.load(mem, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[uint64]byte{
		kernelAddr - 1: 0, kernelAddr: 0xcc, kernelAddr + 0xfff: 0xcc, kernelAddr + 0x1000: 0,
		kernelAddr + 0x2000: 0xdd, kernelAddr + 0x2fff: 0xdd, kernelAddr + 0x3000: 0,
	} {
		var p [1]byte
		if err := mem.ReadAt(p[:], addr); err != nil || p[0] != want {
			t.Errorf("byte at %#x = %#x, %v; want %#x", addr, p[0], err, want)
		}
	}
	if err := img.load(newMemory(t, ram(0, kernelAddr+0x3000)), bytes.NewReader(b)); err == nil {
		t.Error("a segment past the end of memory is loaded")
	}
}

func TestELFRefused(t *testing.T) {
	for name, change := range map[string]func(*elfFile){
		"magic":               func(f *elfFile) { f.header.Ident[0] = 0 },
		"32 bits":             func(f *elfFile) { f.header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32) },
		"big endian":          func(f *elfFile) { f.header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB) },
		"machine":             func(f *elfFile) { f.header.Machine = uint16(elf.EM_AARCH64) },
		"relocatable":         func(f *elfFile) { f.header.Type = uint16(elf.ET_DYN) },
		"no headers":          func(f *elfFile) { f.header.Phnum = 0 },
		"many headers":        func(f *elfFile) { f.header.Phnum = 0xffff },
		"odd headers":         func(f *elfFile) { f.header.Phentsize = 32 },
		"headers outside":     func(f *elfFile) { f.header.Phoff = 1 << 20 },
		"headers wrap":        func(f *elfFile) { f.header.Phoff = ^uint64(0) - 8 },
		"entry in data":       func(f *elfFile) { f.header.Entry = kernelAddr + 0x2000 },
		"entry nowhere":       func(f *elfFile) { f.header.Entry = 0 },
		"entry virtual":       func(f *elfFile) { f.header.Entry = f.progs[1].Vaddr },
		"nothing to load":     func(f *elfFile) { f.progs[0].Type, f.progs[1].Type = 0, 0 },
		"data outside":        func(f *elfFile) { f.progs[0].Off++ },
		"data wraps":          func(f *elfFile) { f.progs[0].Off = ^uint64(0) },
		"more file than size": func(f *elfFile) { f.progs[0].Memsz = f.progs[0].Filesz - 1 },
		"huge":                func(f *elfFile) { f.progs[0].Memsz = ^uint64(0) },
		"low":                 func(f *elfFile) { f.progs[0].Paddr = mpTableAddr },
		"high":                func(f *elfFile) { f.progs[0].Paddr = identityEnd - 1 },
		"address wraps":       func(f *elfFile) { f.progs[0].Paddr = ^uint64(0) - 0xfff },
		"overlap":             func(f *elfFile) { f.progs[0].Paddr = kernelAddr + 1 },
		"cut off":             func(f *elfFile) { f.data = f.data[:len(f.data)-1] },
		"no data":             func(f *elfFile) { f.data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			f := validELF()
			change(f)
			b := f.bytes(t)
			if img, err := parseELF(bytes.NewReader(b), int64(len(b))); err == nil {
				t.Errorf("parseELF = %+v", img)
			} else {
				t.Log(err)
			}
		})
	}
}

// TestELFShrinks: the file is shorter than its size, as if it had been cut off
// while being read.
func TestELFShrinks(t *testing.T) {
	b := validELF().bytes(t)
	size := int64(len(b))
	for n := range len(b) {
		r := bytes.NewReader(b[:n])
		img, err := parseELF(r, size)
		if err == nil {
			err = img.load(newMemory(t, ram(0, kernelAddr+0x4000)), r)
		}
		if err == nil {
			t.Fatalf("%d of %d bytes are enough", n, size)
		}
		if n > 300 {
			break // the rest differs in data only
		}
	}
}

func FuzzELF(f *testing.F) {
	seed := validELF() // small: it gets minimized byte by byte
	seed.data = seed.data[:32]
	seed.progs[0].Off = seed.progs[1].Off + 16
	seed.progs[0].Filesz, seed.progs[1].Filesz = 16, 16
	seed.header.Entry = kernelAddr
	f.Add(seed.bytes(f))
	f.Add([]byte(elf.ELFMAG))
	mem := newMemory(f, ram(0, kernelAddr+0x4000))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := parseELF(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if bytes.Equal(b, seed.bytes(t)) {
				t.Error(err)
			}
			return
		}
		end := uint64(highMemStart)
		for _, s := range img.segments {
			if s.addr < end || s.memsz > identityEnd-s.addr || s.filesz > s.memsz ||
				s.off < 0 || uint64(s.off)+s.filesz > uint64(len(b)) {
				t.Errorf("segment %+v", s)
			}
			end = s.addr + s.memsz
		}
		if img.end != end {
			t.Errorf("end = %#x; want %#x", img.end, end)
		}
		if err := img.load(mem, bytes.NewReader(b)); err != nil {
			return
		}
	})
}
