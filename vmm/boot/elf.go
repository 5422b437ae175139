package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"runv.dev/runv/internal/guestmem"
)

const (
	elfHeaderSize  = 64
	elfProgSize    = 56
	maxProgHeaders = 64
)

// segment is a PT_LOAD program header whose bounds have been checked.
type segment struct {
	off    int64  // in the file
	addr   uint64 // guest-physical
	filesz uint64
	memsz  uint64
}

// image is a checked kernel.
type image struct {
	entry    uint64
	segments []segment // sorted by address, disjoint
	end      uint64    // of the last segment
}

var errNotVmlinux = errors.New("not an uncompressed x86-64 ELF kernel (vmlinux)")

// parseELF reads the headers of a vmlinux of the given size. All that it
// returns lies inside the file and in [highMemStart, identityEnd).
func parseELF(r io.ReaderAt, size int64) (*image, error) {
	var raw [elfHeaderSize]byte
	if size < elfHeaderSize {
		return nil, errNotVmlinux
	}
	if err := readFull(r, raw[:], 0); err != nil {
		return nil, err
	}
	var h elf.Header64
	if err := binary.Read(bytes.NewReader(raw[:]), binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	switch {
	case string(h.Ident[:4]) != elf.ELFMAG,
		elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64,
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB,
		elf.Machine(h.Machine) != elf.EM_X86_64,
		elf.Type(h.Type) != elf.ET_EXEC:
		return nil, errNotVmlinux
	case h.Phentsize != elfProgSize:
		return nil, fmt.Errorf("program headers of %d bytes", h.Phentsize)
	case h.Phnum == 0 || h.Phnum > maxProgHeaders:
		return nil, fmt.Errorf("%d program headers", h.Phnum)
	case h.Phoff > uint64(size) || uint64(h.Phnum)*elfProgSize > uint64(size)-h.Phoff:
		return nil, fmt.Errorf("program headers at %#x are outside the file", h.Phoff)
	}
	table := make([]byte, int(h.Phnum)*elfProgSize)
	if err := readFull(r, table, int64(h.Phoff)); err != nil {
		return nil, err
	}
	progs := make([]elf.Prog64, h.Phnum)
	if err := binary.Read(bytes.NewReader(table), binary.LittleEndian, progs); err != nil {
		return nil, err
	}

	img := &image{entry: h.Entry}
	startable := false
	for i, p := range progs {
		if elf.ProgType(p.Type) != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		s, err := checkSegment(p, size)
		if err != nil {
			return nil, fmt.Errorf("program header %d: %w", i, err)
		}
		img.segments = append(img.segments, s)
		if elf.ProgFlag(p.Flags)&elf.PF_X != 0 && h.Entry >= s.addr && h.Entry-s.addr < s.filesz {
			startable = true
		}
	}
	if !startable {
		return nil, fmt.Errorf("entry %#x is not in a loaded, executable segment", h.Entry)
	}
	slices.SortFunc(img.segments, func(a, b segment) int {
		if a.addr < b.addr {
			return -1
		}
		return 1
	})
	for _, s := range img.segments {
		if s.addr < img.end {
			return nil, fmt.Errorf("segment at %#x overlaps the one before it", s.addr)
		}
		img.end = s.addr + s.memsz
	}
	return img, nil
}

func checkSegment(p elf.Prog64, size int64) (segment, error) {
	switch {
	case p.Filesz > p.Memsz:
		return segment{}, fmt.Errorf("%#x bytes in the file, %#x in memory", p.Filesz, p.Memsz)
	case p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off:
		return segment{}, fmt.Errorf("%#x bytes at %#x are outside the file", p.Filesz, p.Off)
	case p.Paddr < highMemStart || p.Paddr > identityEnd || p.Memsz > identityEnd-p.Paddr:
		return segment{}, fmt.Errorf("%#x bytes at physical address %#x are outside [%#x, %#x)",
			p.Memsz, p.Paddr, uint64(highMemStart), uint64(identityEnd))
	}
	return segment{off: int64(p.Off), addr: p.Paddr, filesz: p.Filesz, memsz: p.Memsz}, nil
}

// load copies the image into mem. The memory past the file's bytes must be
// zero already.
func (img *image) load(mem *guestmem.Memory, r io.ReaderAt) error {
	for _, s := range img.segments {
		dst, err := mem.Slice(s.addr, s.memsz)
		if err != nil {
			return fmt.Errorf("segment of %#x bytes at %#x does not fit the memory of the guest", s.memsz, s.addr)
		}
		if err := readFull(r, dst[:s.filesz], s.off); err != nil {
			return err
		}
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
