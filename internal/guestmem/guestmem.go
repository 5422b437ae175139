// Package guestmem is the guest's physical memory as the host sees it: the
// only place that turns a guest address into bytes.
//
// Everything in that memory can change at any moment, so what is read from it
// has to be copied once and checked afterwards. ReadAt and the Load methods
// make such copies; what Slice returns is shared with the guest.
package guestmem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// PageSize is the granularity of regions, in bytes.
const PageSize = 4096

// ErrOutOfRange reports an access that is not wholly inside one region.
var ErrOutOfRange = errors.New("guest address out of range")

// ErrUnaligned reports an atomic access to an address that is not a multiple
// of its size.
var ErrUnaligned = errors.New("guest address not aligned")

// Region is a piece of guest-physical address space with the host memory
// behind it.
type Region struct {
	Addr uint64 // guest-physical, a multiple of PageSize
	Data []byte // a multiple of PageSize long, at an address divisible by 8
}

// Memory is a set of regions. It is safe for concurrent use.
type Memory struct {
	regions []Region // sorted by address
	discard func(b []byte) error
}

// New makes a memory of the regions, which may be given in any order but must
// be page-aligned, not empty, and neither overlap nor reach past the end of
// the address space.
func New(regions ...Region) (*Memory, error) {
	rs := slices.Clone(regions)
	slices.SortFunc(rs, func(a, b Region) int { return cmp.Compare(a.Addr, b.Addr) })
	var end uint64
	for _, r := range rs {
		n := uint64(len(r.Data))
		switch {
		case n == 0:
			return nil, fmt.Errorf("guest memory region at %#x: empty", r.Addr)
		case r.Addr%PageSize != 0 || n%PageSize != 0:
			return nil, fmt.Errorf("guest memory region at %#x of %#x bytes: not page-aligned", r.Addr, n)
		case !wordAligned(r.Data):
			return nil, fmt.Errorf("guest memory region at %#x: host memory not aligned", r.Addr)
		case r.Addr+n < r.Addr:
			return nil, fmt.Errorf("guest memory region at %#x of %#x bytes: address wraps", r.Addr, n)
		case r.Addr < end:
			return nil, fmt.Errorf("guest memory region at %#x: overlaps the one before it", r.Addr)
		}
		end = r.Addr + n
	}
	return &Memory{regions: rs}, nil
}

// Regions returns the regions, sorted by address.
func (m *Memory) Regions() []Region { return slices.Clone(m.regions) }

// Slice returns the n bytes at addr. They are shared with the guest: whatever
// is decided on has to be copied out first. The capacity ends with the slice.
func (m *Memory) Slice(addr, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		// off wraps to a huge number for an address below the region.
		if off, size := addr-r.Addr, uint64(len(r.Data)); off < size {
			if n > size-off {
				break
			}
			return r.Data[off : off+n : off+n], nil
		}
	}
	return nil, rangeError(addr, n)
}

// OnDiscard sets how memory is given back. It comes before any use of Discard.
func (m *Memory) OnDiscard(f func(b []byte) error) { m.discard = f }

// Discard gives the host back the pages that lie wholly in b, which is from
// Slice. They stay memory of the guest; what they hold then is zero, or still
// the same.
func (m *Memory) Discard(b []byte) error {
	if m.discard == nil {
		return nil
	}
	return m.discard(b)
}

// ReadAt copies len(p) bytes at addr to p. Each byte is read from the guest
// before ReadAt returns and not again. As the race detector would not see a
// guest, it does not see ReadAt and WriteAt either.
//
//go:noinline
func (m *Memory) ReadAt(p []byte, addr uint64) error {
	b, err := m.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// WriteAt copies p to addr.
//
//go:noinline
func (m *Memory) WriteAt(p []byte, addr uint64) error {
	b, err := m.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}

// LoadUint16 reads a little-endian word atomically; what follows it in program
// order is not read before it.
func (m *Memory) LoadUint16(addr uint64) (uint16, error) {
	w, shift, err := m.halfword(addr)
	if err != nil {
		return 0, err
	}
	return uint16(load32(w) >> shift), nil
}

// StoreUint16 writes a little-endian word atomically, leaving its neighbours
// alone. It is also a full memory fence: what precedes it in program order is
// visible to the guest before it, and what follows is read after it.
func (m *Memory) StoreUint16(addr uint64, v uint16) error {
	w, shift, err := m.halfword(addr)
	if err != nil {
		return err
	}
	for {
		old := load32(w)
		if cas32(w, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return nil
		}
	}
}

// halfword finds the aligned 32-bit word that holds the 16-bit one at addr.
// As regions are page-aligned, it is inside the same region.
func (m *Memory) halfword(addr uint64) (w []byte, shift uint, err error) {
	if addr%2 != 0 {
		return nil, 0, unalignedError(addr, 2)
	}
	w, err = m.Slice(addr&^3, 4)
	return w, uint(addr&2) * 8, err
}

// LoadUint32 is LoadUint16 for 32 bits.
func (m *Memory) LoadUint32(addr uint64) (uint32, error) {
	w, err := m.aligned(addr, 4)
	if err != nil {
		return 0, err
	}
	return load32(w), nil
}

// StoreUint32 is StoreUint16 for 32 bits.
func (m *Memory) StoreUint32(addr uint64, v uint32) error {
	w, err := m.aligned(addr, 4)
	if err != nil {
		return err
	}
	store32(w, v)
	return nil
}

// LoadUint64 is LoadUint16 for 64 bits.
func (m *Memory) LoadUint64(addr uint64) (uint64, error) {
	w, err := m.aligned(addr, 8)
	if err != nil {
		return 0, err
	}
	return load64(w), nil
}

// StoreUint64 is StoreUint16 for 64 bits.
func (m *Memory) StoreUint64(addr uint64, v uint64) error {
	w, err := m.aligned(addr, 8)
	if err != nil {
		return err
	}
	store64(w, v)
	return nil
}

func (m *Memory) aligned(addr, n uint64) ([]byte, error) {
	if addr%n != 0 {
		return nil, unalignedError(addr, n)
	}
	return m.Slice(addr, n)
}

func rangeError(addr, n uint64) error {
	return fmt.Errorf("%w: %#x bytes at %#x", ErrOutOfRange, n, addr)
}

func unalignedError(addr, n uint64) error {
	return fmt.Errorf("%w: %d bytes at %#x", ErrUnaligned, n, addr)
}
