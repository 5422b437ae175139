package snapshot

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/vmm/kvm"
)

func example() *Machine {
	m := &Machine{
		Label:       []byte("label"),
		MemoryBytes: 64 << 20,
		Clock:       123456789,
		CPUID:       []kvm.CPUIDEntry{{Function: 1, Index: 2, Flags: 3, EAX: 4, EBX: 5, ECX: 6, EDX: 7}},
		VCPUs:       make([]kvm.VCPUState, 2),
		IOAPIC:      IOAPIC{Selected: 0x12, ID: 1 << 24, Redirection: []uint64{1 << 16, 0x31}},
		Devices: []mmio.State{{
			DeviceID: 26, Offered: 1<<32 | 7, Accepted: 1<<32 | 1, Status: 15, DeviceSel: 1, DriverSel: 1,
			QueueSel: 3, Generation: 9, Interrupts: 1, Device: []byte("device"),
			Queues: []mmio.QueueState{{Max: 1024, Size: 64, Desc: 1 << 33, Driver: 5, Device: 6, Ready: true, Index: 65535}},
		}},
		Memory: Memory{File: []byte("file"), Extents: []Extent{{0, 4096}, {8192, 1 << 20}, {64<<20 - 4096, 4096}},
			Working: WorkingSet{Written: []Extent{{4096, 4096}}, Read: []Extent{{0, 4096}, {8192, 8192}}}},
	}
	for i := range m.VCPUs {
		s := &m.VCPUs[i]
		s.MPState, s.TSCKHz = uint32(i), 2_000_000
		for j, part := range [][]byte{s.Regs[:], s.Sregs[:], s.XCRs[:], s.DebugRegs[:], s.LAPIC[:], s.Events[:]} {
			for k := range part {
				part[k] = byte(i + j + k)
			}
		}
		s.XSave = bytes.Repeat([]byte{7}, 4096+i)
		s.MSRs = []kvm.MSREntry{{Index: 0x10, Data: 1 << 40}, {Index: 0x6e0}}
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	want := example()
	got, err := Decode(want.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded\n%+v, want\n%+v", got, want)
	}
	if n := got.Memory.Bytes(); n != 1<<20+8192 {
		t.Errorf("memory file of %d bytes", n)
	}
}

// TestDamage flips, cuts and adds: nothing but the original is accepted.
func TestDamage(t *testing.T) {
	b := example().Encode()
	for i := 0; i < len(b); i += 1 + i/16 {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		if _, err := Decode(bad); err == nil {
			t.Fatalf("a flipped bit in byte %d is accepted", i)
		}
		if _, err := Decode(b[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes of %d: %v", i, len(b), err)
		}
	}
	if _, err := Decode(append(b, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"no vCPU":        func(m *Machine) { m.VCPUs = nil },
		"memory":         func(m *Machine) { m.MemoryBytes++ },
		"empty extent":   func(m *Machine) { m.Memory.Extents[0].Length = 0 },
		"odd extent":     func(m *Machine) { m.Memory.Extents[0].Length = 1 },
		"overlap":        func(m *Machine) { m.Memory.Extents[0].Length = 3 * 4096 },
		"past the end":   func(m *Machine) { m.Memory.Extents[2].Length *= 2 },
		"wraps":          func(m *Machine) { m.Memory.Extents[2].Length = 1<<64 - 4096 },
		"working set":    func(m *Machine) { m.Memory.Working.Written[0].Offset = 64 << 20 },
		"many extents":   func(m *Machine) { m.Memory.Extents = make([]Extent, MaxExtents+1) },
		"extended state": func(m *Machine) { m.VCPUs[0].XSave = make([]byte, kvm.MaxXSave+1) },
		"MSRs":           func(m *Machine) { m.VCPUs[0].MSRs = make([]kvm.MSREntry, kvm.MaxMSRs+1) },
		"queues":         func(m *Machine) { m.Devices[0].Queues = make([]mmio.QueueState, maxQueues+1) },
	} {
		m := example()
		change(m)
		if _, err := Decode(m.Encode()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode leaves the checksum out, which no fuzzer would get right. What is
// accepted has to come out the same again.
func FuzzDecode(f *testing.F) {
	f.Add(example().Encode()[headerSize:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		w := &writer{}
		m.encode(w)
		again, err := decode(w.b)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("decoded, encoded and decoded: %v", err)
		}
	})
}
