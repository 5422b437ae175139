package vmm

import (
	"testing"

	"runv.dev/runv/vmm/kvm"
)

func find(entries []kvm.CPUIDEntry, function, index uint32) *kvm.CPUIDEntry {
	for i := range entries {
		if e := &entries[i]; e.Function == function && e.Index == index {
			return e
		}
	}
	return nil
}

// everything is a processor that supports all there is.
func everything() []kvm.CPUIDEntry {
	var out []kvm.CPUIDEntry
	for _, f := range []uint32{
		0x1, 0x7, 0xa, 0x12, 0x1f, 0x40000001, 0x80000001, 0x80000008, 0x8000000a, 0x8000001e, 0x8000001f, 0x80000022, 0x80000026,
	} {
		out = append(out, kvm.CPUIDEntry{Function: f, EAX: ^uint32(0), EBX: ^uint32(0), ECX: ^uint32(0), EDX: ^uint32(0)})
	}
	return append(out,
		kvm.CPUIDEntry{Function: 0x0, EAX: 0x1f, EBX: 0x756e6547},
		kvm.CPUIDEntry{Function: 0x4, Index: 0, EAX: 0xffffc000 | 1<<5 | 1},
		kvm.CPUIDEntry{Function: 0x4, Index: 3, EAX: 0xffffc000 | 3<<5 | 3},
		kvm.CPUIDEntry{Function: 0xb, Index: 0, EAX: 7, EBX: 99},
		kvm.CPUIDEntry{Function: 0xb, Index: 1, EAX: 7, EBX: 99},
	)
}

func TestCPUIDTopology(t *testing.T) {
	for _, tc := range []struct {
		cpus   int
		idBits uint32
	}{{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {64, 6}, {254, 8}} {
		template := cpuidTemplate(everything(), tc.cpus, true)
		last := uint32(tc.cpus - 1)
		e := cpuidFor(template, last)
		ids := uint32(1)<<tc.idBits - 1

		if got := find(e, 0xb, 0); got.EAX != 0 || got.EBX != 1 || got.ECX != 0x100 || got.EDX != last {
			t.Errorf("%d CPUs: leaf 0xb.0 = %+v", tc.cpus, got)
		}
		if got := find(e, 0xb, 1); got.EAX != tc.idBits || got.EBX != uint32(tc.cpus) || got.ECX != 0x201 || got.EDX != last {
			t.Errorf("%d CPUs: leaf 0xb.1 = %+v", tc.cpus, got)
		}
		if got := find(e, 0xb, 2); got.EBX != 0 || got.ECX != 2 || got.EDX != last {
			t.Errorf("%d CPUs: leaf 0xb.2 = %+v", tc.cpus, got)
		}
		one := find(e, 1, 0)
		if one.EBX>>24 != last || (one.EDX>>28&1 == 1) != (tc.cpus > 1) {
			t.Errorf("%d CPUs: leaf 1 = %#x", tc.cpus, *one)
		}
		if n := one.EBX >> 16 & 0xff; tc.cpus > 1 && n != min(ids+1, 255) || tc.cpus == 1 && n != 0 {
			t.Errorf("%d CPUs: leaf 1 counts %d", tc.cpus, n)
		}
		if got := find(e, 4, 0).EAX; got>>14&0xfff != 0 || got>>26 != min(ids, 63) || got&0xff != 0x21 {
			t.Errorf("%d CPUs: level 1 cache %#x", tc.cpus, got)
		}
		if got := find(e, 4, 3).EAX >> 14 & 0xfff; got != ids {
			t.Errorf("%d CPUs: level 3 cache is shared by %d ids; want %d", tc.cpus, got, ids)
		}
		if got := find(e, 0x80000008, 0).ECX; got&0xff != last || got>>12&0xf != tc.idBits {
			t.Errorf("%d CPUs: leaf 0x80000008 = %#x", tc.cpus, got)
		}
		if got := find(e, 0x8000001e, 0); got.EAX != last || got.EBX != last || got.ECX != 0 {
			t.Errorf("%d CPUs: leaf 0x8000001e = %+v", tc.cpus, got)
		}
		for _, f := range []uint32{0x1f, 0x80000026} {
			if find(e, f, 0) != nil {
				t.Errorf("%d CPUs: leaf %#x is there", tc.cpus, f)
			}
		}
		if got := find(template, 0xb, 0); got.EDX != 0 {
			t.Error("the template has changed")
		}
	}
}

func TestCPUIDHides(t *testing.T) {
	e := cpuidTemplate(everything(), 2, false)
	for _, f := range []uint32{0xa, 0x12, 0x8000000a, 0x8000001f, 0x80000022} {
		if got := find(e, f, 0); *got != (kvm.CPUIDEntry{Function: f}) {
			t.Errorf("leaf %#x = %+v", f, got)
		}
	}
	const vmx, pdcm, deadline, svm, asyncPF = 1 << 5, 1 << 15, 1 << 24, 1 << 2, 1<<4 | 1<<10 | 1<<14
	if c := find(e, 1, 0).ECX; c&(vmx|pdcm|deadline) != 0 || c>>31 != 1 || c>>21&1 != 1 {
		t.Errorf("leaf 1 ECX = %#x", c)
	}
	if c := find(e, 0x80000001, 0).ECX; c&svm != 0 {
		t.Errorf("leaf 0x80000001 ECX = %#x", c)
	}
	if c := find(e, 0x40000001, 0).EAX; c&asyncPF != 0 || c&0x1000009 != 0x1000009 {
		t.Errorf("KVM features = %#x", c)
	}
	if c := find(cpuidTemplate(everything(), 2, true), 1, 0).ECX; c&deadline == 0 {
		t.Error("no TSC deadline timer")
	}
	// A processor from before leaf 0xb gets none.
	old := []kvm.CPUIDEntry{{Function: 0, EAX: 7}, {Function: 1}}
	if find(cpuidTemplate(old, 2, true), 0xb, 0) != nil {
		t.Error("leaf 0xb beyond the maximum")
	}
}
