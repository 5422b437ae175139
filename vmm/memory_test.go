package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"runv.dev/runv/vmm/boot"
	"runv.dev/runv/vmm/kvm"
	"runv.dev/runv/vmm/snapshot"
)

func TestMerge(t *testing.T) {
	runs := []snapshot.Extent{{Offset: 0, Length: 10}, {Offset: 12, Length: 3}, {Offset: 14, Length: 10}, {Offset: 30, Length: 1}, {Offset: 100, Length: 1}}
	for _, tc := range []struct {
		gap  uint64
		want []snapshot.Extent
	}{
		{1, []snapshot.Extent{{Offset: 0, Length: 10}, {Offset: 12, Length: 12}, {Offset: 30, Length: 1}, {Offset: 100, Length: 1}}},
		{7, []snapshot.Extent{{Offset: 0, Length: 31}, {Offset: 100, Length: 1}}},
		{1000, []snapshot.Extent{{Offset: 0, Length: 101}}},
	} {
		if got := merge(slices.Clone(runs), tc.gap); !slices.Equal(got, tc.want) {
			t.Errorf("merge with gaps of %d: %v; want %v", tc.gap, got, tc.want)
		}
	}
	if got := mergeTo(runs, 1, 2); !slices.Equal(got, []snapshot.Extent{{Offset: 0, Length: 31}, {Offset: 100, Length: 1}}) {
		t.Errorf("merge to two: %v", got)
	}
	if got := mergeTo(nil, 1, 2); len(got) != 0 {
		t.Errorf("merge of nothing: %v", got)
	}
}

func TestGuestRanges(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		in   snapshot.Extent
		want []snapshot.Extent
	}{
		{snapshot.Extent{Offset: mib, Length: mib}, []snapshot.Extent{{Offset: mib, Length: mib}}},
		{snapshot.Extent{Offset: boot.GapStart - mib, Length: mib}, []snapshot.Extent{{Offset: boot.GapStart - mib, Length: mib}}},
		{snapshot.Extent{Offset: boot.GapStart, Length: mib}, []snapshot.Extent{{Offset: boot.GapEnd, Length: mib}}},
		{
			snapshot.Extent{Offset: boot.GapStart - mib, Length: 3 * mib},
			[]snapshot.Extent{{Offset: boot.GapStart - mib, Length: mib}, {Offset: boot.GapEnd, Length: 2 * mib}},
		},
	} {
		if got := guestRanges(tc.in); !slices.Equal(got, tc.want) {
			t.Errorf("%v: %v; want %v", tc.in, got, tc.want)
		}
	}
}

// TestMemoryFile saves memory and maps it in two others, which neither see what
// the other writes nor change the file.
func TestMemoryFile(t *testing.T) {
	const size = 64 << 20
	memory := func() *ram {
		r, err := newRAM(size)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.release() })
		return r
	}
	old := memory()
	places := []uint64{0, 5 * pageSize, 20 << 20, size - pageSize}
	for i, at := range places {
		old.data[at] = byte(i + 1)
	}
	if old.data[40<<20] != 0 { // a page that is read, and zero
		t.Error("new memory is not zero")
	}
	path := filepath.Join(t.TempDir(), "memory")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, err := old.save(f)
	if err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Extent{{Offset: 0, Length: 6 * pageSize}, {Offset: 20 << 20, Length: pageSize}, {Offset: size - pageSize, Length: pageSize}}
	if !slices.Equal(extents, want) {
		t.Fatalf("extents %v; want %v", extents, want)
	}
	before, err := os.ReadFile(path)
	if err != nil || len(before) != 8*pageSize {
		t.Fatalf("a file of %d bytes, %v", len(before), err)
	}
	stored := &snapshot.Memory{Extents: extents}
	a, b := memory(), memory()
	for _, r := range []*ram{a, b} {
		if err := r.load(stored, f); err != nil {
			t.Fatal(err)
		}
	}
	a.preload(snapshot.WorkingSet{Written: extents[:1], Read: extents[1:2]})
	if !bytes.Equal(a.data, old.data) {
		t.Error("the memory is not what was saved")
	}
	for _, at := range places {
		a.data[at] = 0xaa
	}
	if !bytes.Equal(b.data, old.data) {
		t.Error("one machine sees what another writes")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	if err := f.Truncate(7 * pageSize); err != nil {
		t.Fatal(err)
	}
	if err := memory().load(stored, f); err == nil {
		t.Error("a file that is too short is mapped")
	}
	stored.Extents = append(stored.Extents[:2:2], snapshot.Extent{Offset: size, Length: 0})
	if err := f.Truncate(7 * pageSize); err != nil {
		t.Fatal(err)
	}
	stored.Extents[1] = snapshot.Extent{Offset: size, Length: pageSize}
	if err := memory().load(&snapshot.Memory{Extents: stored.Extents[:2]}, f); err == nil {
		t.Error("an extent behind the memory is mapped")
	}
}

// TestSaveClone saves the memory of a clone that has hardly touched it: what is
// mapped from the template is memory all the same.
func TestSaveClone(t *testing.T) {
	const size = 64 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{1}, 4<<20)); err != nil {
		t.Fatal(err)
	}
	clone := func() *ram {
		r, err := newRAM(size)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.release() })
		return r
	}
	r := clone()
	if err := r.load(&snapshot.Memory{Extents: []snapshot.Extent{{Offset: 8 << 20, Length: 3 << 20}, {Offset: 20 << 20, Length: 1 << 20}}}, f); err != nil {
		t.Fatal(err)
	}
	r.data[9<<20], r.data[1<<20], r.data[40<<20] = 2, 3, 4
	if err := r.discard(snapshot.Extent{Offset: 10 << 20, Length: 512 << 10}); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	extents, err := r.save(&saved)
	if err != nil {
		t.Fatal(err)
	}
	again := clone()
	if err := again.read(&snapshot.Memory{Extents: extents}, &saved); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.data, r.data) {
		t.Error("what was saved is not the memory")
	}
}

func TestWorking(t *testing.T) {
	r, err := newRAM(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := r.load(&snapshot.Memory{Extents: []snapshot.Extent{{Offset: 8 << 20, Length: 4 << 20}}}, f); err != nil {
		t.Fatal(err)
	}
	r.data[9<<20] = 1
	if r.data[11<<20] != 0 {
		t.Error("not what the file has")
	}
	w, err := r.working()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.Written, []snapshot.Extent{{Offset: 9 << 20, Length: pageSize}}) {
		t.Errorf("written: %v", w.Written)
	}
	found := false
	for _, e := range w.Read {
		found = found || e.Offset <= 11<<20 && 11<<20 < e.Offset+e.Length
	}
	if !found {
		t.Errorf("read: %v", w.Read)
	}
}

func TestSameProcessor(t *testing.T) {
	leaves := []kvm.CPUIDEntry{
		{Function: leafVendor, EAX: 0xd}, {Function: leafFeatures, EAX: 1, EBX: 2, ECX: 3, EDX: 4},
		{Function: leafExtendedFeatures, EBX: 5}, {Function: leafTopology, EBX: 9},
	}
	for _, tc := range []struct {
		name   string
		change func([]kvm.CPUIDEntry)
		want   bool
	}{
		{"same", func([]kvm.CPUIDEntry) {}, true},
		{"APIC id", func(l []kvm.CPUIDEntry) { l[1].EBX = 7 }, true},
		{"topology", func(l []kvm.CPUIDEntry) { l[3].EBX = 7 }, true},
		{"feature", func(l []kvm.CPUIDEntry) { l[1].ECX = 7 }, false},
		{"extended feature", func(l []kvm.CPUIDEntry) { l[2].EBX = 7 }, false},
		{"missing leaf", func(l []kvm.CPUIDEntry) { l[2].Function = leafTopology }, false},
	} {
		other := slices.Clone(leaves)
		tc.change(other)
		if got := sameProcessor(leaves, other); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestIOAPICState(t *testing.T) {
	var routes []kvm.Route
	build := func(pins int) *ioapic {
		return newIOAPIC(pins, func(r []kvm.Route) error { routes = r; return nil }, func(err error) { t.Error(err) })
	}
	write := func(a *ioapic, reg uint8, v uint32) {
		a.Write(ioapicSelect, []byte{reg, 0, 0, 0})
		a.Write(ioapicWindow, []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)})
	}
	a := build(4)
	write(a, ioapicRegID, 2<<24)
	write(a, ioapicRegRedirection+2*2+1, 1<<24)
	write(a, ioapicRegRedirection+2*2, 0x31)
	want := slices.Clone(routes)
	if len(want) != 1 {
		t.Fatalf("routes %v", want)
	}
	routes = nil
	b := build(4)
	if err := b.restore(a.save()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(routes, want) || b.save().ID != 2<<24 || b.save().Selected != a.save().Selected {
		t.Errorf("restored: %v, %+v; want %v", routes, b.save(), want)
	}
	if err := build(5).restore(a.save()); err == nil {
		t.Error("a state with another number of pins is accepted")
	}
}
