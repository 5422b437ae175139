package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"runv.dev/runv/internal/guestmem"
)

// Params is what to boot.
type Params struct {
	Kernel  *io.SectionReader // an uncompressed ELF vmlinux
	Initrd  *io.SectionReader // may be nil
	Cmdline string
	VCPUs   int
	Pins    []uint8 // of the IOAPIC, that have a device
	Seed    []byte  // for the guest's random number generator; may be empty
}

// Load fills the guest's memory, which must be all zero, and says how the
// first vCPU starts.
func Load(mem *guestmem.Memory, p Params) (Entry, error) {
	if err := checkCmdline(p.Cmdline); err != nil {
		return Entry{}, err
	}
	regions := mem.Regions()
	if len(regions) == 0 || regions[0].Addr != 0 || len(regions[0].Data) <= highMemStart {
		return Entry{}, errors.New("the guest has no memory at 1 MiB")
	}
	img, err := parseELF(p.Kernel, p.Kernel.Size())
	if err != nil {
		return Entry{}, fmt.Errorf("kernel: %w", err)
	}
	if err := img.load(mem, p.Kernel); err != nil {
		return Entry{}, fmt.Errorf("kernel: %w", err)
	}
	z := zeroPage{e820: e820(regions), cmdlineLen: len(p.Cmdline)}
	if p.Initrd != nil {
		z.initrdSize = uint64(p.Initrd.Size())
		z.initrd, err = loadInitrd(mem, p.Initrd, img.end)
		if err != nil {
			return Entry{}, fmt.Errorf("initrd: %w", err)
		}
	}
	mp, err := mpTable(mpTableAddr, p.VCPUs, p.Pins)
	if err != nil {
		return Entry{}, err
	}
	setupData, err := writeSetupData(mem, p.Seed)
	if err != nil {
		return Entry{}, err
	}
	z.setupData = setupData
	if err := errors.Join(
		mem.WriteAt(mp, mpTableAddr),
		mem.WriteAt(append([]byte(p.Cmdline), 0), cmdlineAddr),
		z.write(mem),
		mem.WriteAt(words(gdt[:]), gdtAddr),
		writePageTables(mem),
	); err != nil {
		return Entry{}, err
	}
	return Entry{
		RIP:      img.entry,
		RSP:      stackTop,
		RSI:      zeroPageAddr,
		CR3:      pml4Addr,
		GDTBase:  gdtAddr,
		GDTLimit: uint16(len(gdt)*8 - 1),
	}, nil
}

// loadInitrd copies the initrd to the end of the memory below the gap, as far
// from the kernel, which is free to grow, as can be.
func loadInitrd(mem *guestmem.Memory, r *io.SectionReader, kernelEnd uint64) (uint64, error) {
	low := mem.Regions()[0]
	top, size := uint64(len(low.Data)), uint64(r.Size())
	if kernelEnd > top || size > top-kernelEnd {
		return 0, fmt.Errorf("%#x bytes do not fit the memory of the guest", size)
	}
	addr := (top - size) &^ (pageSize - 1)
	if addr < kernelEnd {
		return 0, fmt.Errorf("%#x bytes do not fit the memory of the guest", size)
	}
	dst, err := mem.Slice(addr, size)
	if err != nil {
		return 0, err
	}
	return addr, readFull(r, dst, 0)
}

// writePageTables maps [0, identityEnd) to itself in pages of 2 MiB.
func writePageTables(mem *guestmem.Memory) error {
	const present, writable, large = 1 << 0, 1 << 1, 1 << 7
	const largePage = 2 << 20
	pd := make([]uint64, identityEnd/largePage)
	for i := range pd {
		pd[i] = uint64(i)*largePage | present | writable | large
	}
	return errors.Join(
		mem.WriteAt(words([]uint64{pdptAddr | present | writable}), pml4Addr),
		mem.WriteAt(words([]uint64{pdAddr | present | writable}), pdptAddr),
		mem.WriteAt(words(pd), pdAddr),
	)
}

func words(w []uint64) []byte {
	b := make([]byte, 0, 8*len(w))
	for _, x := range w {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}
