package guestmem_test

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"runv.dev/runv/internal/guestmem"
)

const page = guestmem.PageSize

func region(addr uint64, pages int) guestmem.Region {
	return guestmem.Region{Addr: addr, Data: make([]byte, pages*page)}
}

func TestNew(t *testing.T) {
	for name, tc := range map[string]struct {
		regions []guestmem.Region
		ok      bool
	}{
		"none":              {nil, true},
		"one":               {[]guestmem.Region{region(0, 1)}, true},
		"unsorted":          {[]guestmem.Region{region(4*page, 1), region(0, 1)}, true},
		"adjacent":          {[]guestmem.Region{region(0, 1), region(page, 1)}, true},
		"up to the last":    {[]guestmem.Region{region(math.MaxUint64-2*page+1, 1)}, true},
		"empty":             {[]guestmem.Region{{Addr: page}}, false},
		"address unaligned": {[]guestmem.Region{region(8, 1)}, false},
		"length unaligned":  {[]guestmem.Region{{Data: make([]byte, page+8)}}, false},
		"host unaligned":    {[]guestmem.Region{{Data: make([]byte, page+8)[4 : page+4]}}, false},
		"wraps":             {[]guestmem.Region{region(math.MaxUint64-page+1, 2)}, false},
		"ends at 2^64":      {[]guestmem.Region{region(math.MaxUint64-page+1, 1)}, false},
		"overlaps":          {[]guestmem.Region{region(0, 2), region(page, 1)}, false},
		"twice":             {[]guestmem.Region{region(0, 1), region(0, 1)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := guestmem.New(tc.regions...)
			if (err == nil) != tc.ok {
				t.Fatalf("New = %v, want ok %v", err, tc.ok)
			}
			if err != nil {
				return
			}
			rs := m.Regions()
			if len(rs) != len(tc.regions) {
				t.Errorf("%d regions, want %d", len(rs), len(tc.regions))
			}
			if !slices.IsSortedFunc(rs, func(a, b guestmem.Region) int { return cmp.Compare(a.Addr, b.Addr) }) {
				t.Error("regions are not sorted")
			}
		})
	}
}

// holes is memory at [page, 3*page) and [8*page, 9*page), and at the top of
// the address space but for the last page.
func holes(t *testing.T) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New(region(page, 2), region(8*page, 1), region(math.MaxUint64-2*page+1, 1))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSlice(t *testing.T) {
	m := holes(t)
	for _, tc := range []struct {
		addr, n uint64
		ok      bool
	}{
		{page, 2 * page, true},
		{page, 0, true},
		{3*page - 1, 1, true},
		{3*page - 1, 2, false},
		{3 * page, 0, false},
		{3 * page, 1, false},
		{page - 1, 1, false},
		{page - 1, 2, false},
		{0, 16 * page, false},
		{page, 7*page + 1, false}, // across the hole
		{page, math.MaxUint64, false},
		{page + 1, math.MaxUint64, false},
		{page + 1, math.MaxUint64 - page, false},
		{8*page + 8, math.MaxUint64 - 8*page - 7, false}, // wraps to 0
		{8 * page, page, true},
		{math.MaxUint64 - 2*page + 1, page, true},
		{math.MaxUint64 - 2*page + 1, page + 1, false},
		{math.MaxUint64 - page, 1, true},
		{math.MaxUint64 - page, page + 2, false},
		{math.MaxUint64, 1, false},
		{math.MaxUint64, math.MaxUint64, false},
	} {
		b, err := m.Slice(tc.addr, tc.n)
		if tc.ok && (err != nil || uint64(len(b)) != tc.n || uint64(cap(b)) != tc.n) {
			t.Errorf("Slice(%#x, %#x) = len %d cap %d, %v", tc.addr, tc.n, len(b), cap(b), err)
		}
		if !tc.ok && !errors.Is(err, guestmem.ErrOutOfRange) {
			t.Errorf("Slice(%#x, %#x) = %v, want ErrOutOfRange", tc.addr, tc.n, err)
		}
	}
}

func TestReadWrite(t *testing.T) {
	m := holes(t)
	want := []byte("across two pages")
	if err := m.WriteAt(want, 2*page-5); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := m.ReadAt(got, 2*page-5); err != nil || !bytes.Equal(got, want) {
		t.Errorf("ReadAt = %q, %v", got, err)
	}
	for _, addr := range []uint64{0, 3*page - 1, 5 * page, math.MaxUint64 - 1} {
		if err := m.ReadAt(got, addr); !errors.Is(err, guestmem.ErrOutOfRange) {
			t.Errorf("ReadAt(%#x) = %v", addr, err)
		}
		if err := m.WriteAt(got, addr); !errors.Is(err, guestmem.ErrOutOfRange) {
			t.Errorf("WriteAt(%#x) = %v", addr, err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("a refused ReadAt changed the buffer to %q", got)
	}
}

func TestAtomic(t *testing.T) {
	m := holes(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.StoreUint64(page, 0x8877665544332211))
	must(m.StoreUint16(page+2, 0xabcd))
	must(m.StoreUint16(page+4, 0xef01))
	var b [8]byte
	must(m.ReadAt(b[:], page))
	if want := [8]byte{0x11, 0x22, 0xcd, 0xab, 0x01, 0xef, 0x77, 0x88}; b != want {
		t.Errorf("memory is %x, want %x", b, want)
	}
	if v, err := m.LoadUint16(page + 2); v != 0xabcd || err != nil {
		t.Errorf("LoadUint16 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint16(page); v != 0x2211 || err != nil {
		t.Errorf("LoadUint16 = %#x, %v", v, err)
	}
	must(m.StoreUint32(page+4, 0x01020304))
	if v, err := m.LoadUint32(page + 4); v != 0x01020304 || err != nil {
		t.Errorf("LoadUint32 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint64(page); v != 0x01020304abcd2211 || err != nil {
		t.Errorf("LoadUint64 = %#x, %v", v, err)
	}
	must(m.StoreUint16(3*page-2, 0x5555)) // the last of a region
	must(m.ReadAt(b[:4], 3*page-4))
	if want := [4]byte{0, 0, 0x55, 0x55}; [4]byte(b[:4]) != want {
		t.Errorf("end of the region is %x, want %x", b[:4], want)
	}

	ops := map[string]struct {
		size uint64
		f    func(uint64) error
	}{
		"LoadUint16":  {2, func(a uint64) error { _, err := m.LoadUint16(a); return err }},
		"LoadUint32":  {4, func(a uint64) error { _, err := m.LoadUint32(a); return err }},
		"LoadUint64":  {8, func(a uint64) error { _, err := m.LoadUint64(a); return err }},
		"StoreUint16": {2, func(a uint64) error { return m.StoreUint16(a, 0) }},
		"StoreUint32": {4, func(a uint64) error { return m.StoreUint32(a, 0) }},
		"StoreUint64": {8, func(a uint64) error { return m.StoreUint64(a, 0) }},
	}
	for name, op := range ops {
		for a := uint64(1); a < op.size; a++ {
			if err := op.f(page + a); !errors.Is(err, guestmem.ErrUnaligned) {
				t.Errorf("%s(+%d) = %v, want ErrUnaligned", name, a, err)
			}
		}
		for _, a := range []uint64{0, page - op.size, 3 * page, math.MaxUint64 - op.size + 1} {
			if err := op.f(a); !errors.Is(err, guestmem.ErrOutOfRange) {
				t.Errorf("%s(%#x) = %v, want ErrOutOfRange", name, a, err)
			}
		}
		if err := op.f(3*page - op.size); err != nil {
			t.Errorf("%s at the end of a region: %v", name, err)
		}
	}
}

// TestNeighbours has two writers of adjacent halfwords, which must not undo
// each other's stores.
func TestNeighbours(t *testing.T) {
	m := holes(t)
	var wg sync.WaitGroup
	for _, addr := range []uint64{page, page + 2} {
		wg.Go(func() {
			for i := range uint16(5000) {
				if err := m.StoreUint16(addr, i); err != nil {
					t.Error(err)
				}
				if v, _ := m.LoadUint16(addr); v != i {
					t.Errorf("%#x reads %d after a store of %d", addr, v, i)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzSlice(f *testing.F) {
	f.Add(uint64(page), uint64(page))
	f.Add(uint64(math.MaxUint64), uint64(2))
	f.Add(uint64(8*page+1), uint64(math.MaxUint64))
	m, err := guestmem.New(region(page, 2), region(8*page, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, addr, n uint64) {
		b, err := m.Slice(addr, n)
		inside := false
		for _, r := range m.Regions() {
			size := uint64(len(r.Data))
			if addr >= r.Addr && addr < r.Addr+size && n <= r.Addr+size-addr {
				inside = true
			}
		}
		if inside != (err == nil) || err == nil && uint64(len(b)) != n {
			t.Errorf("Slice(%#x, %#x) = %d bytes, %v", addr, n, len(b), err)
		}
	})
}
