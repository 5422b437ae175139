package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"runv.dev/runv/vmm/snapshot"
)

// TestDiscard gives back memory of a clone: what was mapped from the template
// does not come back, what lies around it stays, and the host has the pages.
func TestDiscard(t *testing.T) {
	const (
		size = 64 << 20
		kib  = uint64(1 << 10)
		mib  = uint64(1 << 20)
	)
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{0x11}, 4<<20)); err != nil {
		t.Fatal(err)
	}
	template := []snapshot.Extent{{Offset: 8 * mib, Length: 3 * mib}, {Offset: 16 * mib, Length: mib}}
	for _, tc := range []struct {
		name         string
		start, bytes uint64
		zero         []snapshot.Extent // the rest is as it was
		files        []snapshot.Extent // nil: those of the template
	}{
		{"anonymous", 32 * mib, 2 * mib, []snapshot.Extent{{Offset: 32 * mib, Length: 2 * mib}}, nil},
		{"all of an extent", 16 * mib, mib, []snapshot.Extent{{Offset: 16 * mib, Length: mib}}, template[:1]},
		{"the middle of an extent", 9 * mib, mib, []snapshot.Extent{{Offset: 9 * mib, Length: mib}},
			[]snapshot.Extent{{Offset: 8 * mib, Length: mib}, {Offset: 10 * mib, Length: mib}, template[1]}},
		{"across both", 10 * mib, 7 * mib, []snapshot.Extent{{Offset: 10 * mib, Length: 7 * mib}},
			[]snapshot.Extent{{Offset: 8 * mib, Length: 2 * mib}}},
		{"parts of pages", 32*mib + 1, 2*pageSize - 1, []snapshot.Extent{{Offset: 32*mib + pageSize, Length: pageSize}}, nil},
		{"less than a page", 32*mib + 1, pageSize - 1, nil, nil},
		{"a small piece of an extent", 8*mib - 64*kib, 64*kib + minRemap - pageSize,
			[]snapshot.Extent{{Offset: 8*mib - 64*kib, Length: 64 * kib}}, nil},
		{"nothing", 8 * mib, 0, nil, nil},
		{"the end", size - pageSize, pageSize, []snapshot.Extent{{Offset: size - pageSize, Length: pageSize}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := newRAM(size)
			if err != nil {
				t.Fatal(err)
			}
			defer r.release()
			if err := r.load(&snapshot.Memory{Extents: template}, f); err != nil {
				t.Fatal(err)
			}
			for i := range r.data {
				r.data[i] = 0x22
			}
			b, err := r.mem.Slice(tc.start, tc.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.mem.Discard(b); err != nil {
				t.Fatal(err)
			}
			touched := make(map[uint64]bool)
			if err := r.pages(func(offset, _ uint64) { touched[offset] = true }); err != nil {
				t.Fatal(err)
			}
			zero := make([]byte, pageSize)
			same := bytes.Repeat([]byte{0x22}, pageSize)
			for page := uint64(0); page < size; page += pageSize {
				gone := slices.ContainsFunc(tc.zero, func(e snapshot.Extent) bool {
					return e.Offset <= page && page < e.Offset+e.Length
				})
				if touched[page] == gone {
					t.Fatalf("page at %#x: in memory %v, given back %v", page, touched[page], gone)
				}
				want := same
				if gone {
					want = zero
				}
				if !bytes.Equal(r.data[page:page+pageSize], want) {
					t.Fatalf("page at %#x begins with %#x", page, r.data[page:page+4])
				}
			}
			want := tc.files
			if want == nil {
				want = template
			}
			if !slices.Equal(r.files, want) {
				t.Errorf("mapped from the template: %v; want %v", r.files, want)
			}
			for i := range r.data {
				r.data[i] = 0x33 // it is memory as before
			}
		})
	}
}

// TestDiscardBounded reports every other page of a template: as many mappings as
// that would make end the process.
func TestDiscardBounded(t *testing.T) {
	const size = 64 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	r, err := newRAM(size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	if err := r.load(&snapshot.Memory{Extents: []snapshot.Extent{{Length: size}}}, f); err != nil {
		t.Fatal(err)
	}
	for at := uint64(0); at < size; at += 2 * pageSize {
		if err := r.mem.Discard(r.data[at : at+pageSize]); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.files) != 1 {
		t.Errorf("%d mappings", len(r.files))
	}
	for at := uint64(0); at < size; at += 2 * minRemap {
		if err := r.mem.Discard(r.data[at : at+minRemap]); err != nil {
			t.Fatal(err)
		}
	}
	if most := size / minRemap; len(r.files) > most {
		t.Errorf("%d mappings; at most %d", len(r.files), most)
	}
}

func TestDiscardOutside(t *testing.T) {
	r, err := newRAM(16 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	for _, e := range []snapshot.Extent{{Offset: 16<<20 + 1}, {Offset: 0, Length: 16<<20 + 1}, {Offset: 16 << 20, Length: 1}, {Offset: ^uint64(0), Length: 2}} {
		if err := r.discard(e); err == nil {
			t.Errorf("%v is given back", e)
		}
	}
}
