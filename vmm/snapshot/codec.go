package snapshot

import (
	"encoding/binary"
	"fmt"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/vmm/kvm"
)

// All numbers are little-endian. Lists and byte strings begin with their
// length, 32 bits.

func (m *Machine) encode(w *writer) {
	w.blob(m.Label)
	w.u64(m.MemoryBytes)
	w.u64(m.Clock)
	w.u32(uint32(len(m.CPUID)))
	for i := range m.CPUID {
		e := &m.CPUID[i]
		for _, v := range []uint32{e.Function, e.Index, e.Flags, e.EAX, e.EBX, e.ECX, e.EDX} {
			w.u32(v)
		}
	}
	w.u32(uint32(len(m.VCPUs)))
	for i := range m.VCPUs {
		encodeVCPU(w, &m.VCPUs[i])
	}
	w.u32(uint32(m.IOAPIC.Selected))
	w.u32(m.IOAPIC.ID)
	w.u32(uint32(len(m.IOAPIC.Redirection)))
	for _, e := range m.IOAPIC.Redirection {
		w.u64(e)
	}
	w.u32(uint32(len(m.Devices)))
	for i := range m.Devices {
		encodeDevice(w, &m.Devices[i])
	}
	w.blob(m.Memory.File)
	for _, list := range [][]Extent{m.Memory.Extents, m.Memory.Working.Written, m.Memory.Working.Read} {
		w.u32(uint32(len(list)))
		for _, e := range list {
			w.u64(e.Offset)
			w.u64(e.Length)
		}
	}
}

func (m *Machine) decode(r *reader) {
	m.Label = r.blob("label", maxBlob)
	m.MemoryBytes = r.u64()
	m.Clock = r.u64()
	m.CPUID = make([]kvm.CPUIDEntry, r.count("CPUID leaves", maxCPUID))
	for i := range m.CPUID {
		e := &m.CPUID[i]
		for _, v := range []*uint32{&e.Function, &e.Index, &e.Flags, &e.EAX, &e.EBX, &e.ECX, &e.EDX} {
			*v = r.u32()
		}
	}
	m.VCPUs = make([]kvm.VCPUState, r.count("vCPUs", maxVCPUs))
	for i := range m.VCPUs {
		decodeVCPU(r, &m.VCPUs[i])
	}
	m.IOAPIC.Selected = uint8(r.u32())
	m.IOAPIC.ID = r.u32()
	m.IOAPIC.Redirection = make([]uint64, r.count("IOAPIC pins", maxPins))
	for i := range m.IOAPIC.Redirection {
		m.IOAPIC.Redirection[i] = r.u64()
	}
	m.Devices = make([]mmio.State, r.count("devices", maxDevices))
	for i := range m.Devices {
		decodeDevice(r, &m.Devices[i])
	}
	m.Memory.File = r.blob("identity of the memory file", maxBlob)
	for _, list := range []*[]Extent{&m.Memory.Extents, &m.Memory.Working.Written, &m.Memory.Working.Read} {
		*list = make([]Extent, r.count("extents", MaxExtents))
		for i := range *list {
			(*list)[i] = Extent{r.u64(), r.u64()}
		}
	}
}

func encodeVCPU(w *writer, s *kvm.VCPUState) {
	w.u32(s.MPState)
	w.bytes(s.Regs[:])
	w.bytes(s.Sregs[:])
	w.blob(s.XSave)
	w.bytes(s.XCRs[:])
	w.bytes(s.DebugRegs[:])
	w.bytes(s.LAPIC[:])
	w.u32(s.TSCKHz)
	w.u32(uint32(len(s.MSRs)))
	for _, e := range s.MSRs {
		w.u32(e.Index)
		w.u64(e.Data)
	}
	w.bytes(s.Events[:])
}

func decodeVCPU(r *reader, s *kvm.VCPUState) {
	s.MPState = r.u32()
	r.copy(s.Regs[:])
	r.copy(s.Sregs[:])
	s.XSave = r.blob("extended state", kvm.MaxXSave)
	r.copy(s.XCRs[:])
	r.copy(s.DebugRegs[:])
	r.copy(s.LAPIC[:])
	s.TSCKHz = r.u32()
	s.MSRs = make([]kvm.MSREntry, r.count("MSRs", kvm.MaxMSRs))
	for i := range s.MSRs {
		s.MSRs[i].Index = r.u32()
		s.MSRs[i].Data = r.u64()
	}
	r.copy(s.Events[:])
}

func encodeDevice(w *writer, s *mmio.State) {
	w.u32(s.DeviceID)
	w.u64(s.Offered)
	w.u64(s.Accepted)
	for _, v := range []uint32{s.Status, s.DeviceSel, s.DriverSel, s.QueueSel, s.Generation, s.Interrupts} {
		w.u32(v)
	}
	w.u32(uint32(len(s.Queues)))
	for _, q := range s.Queues {
		ready := uint32(0)
		if q.Ready {
			ready = 1
		}
		w.u32(uint32(q.Max))
		w.u32(uint32(q.Size))
		w.u64(q.Desc)
		w.u64(q.Driver)
		w.u64(q.Device)
		w.u32(ready)
		w.u32(uint32(q.Index))
	}
	w.blob(s.Device)
}

func decodeDevice(r *reader, s *mmio.State) {
	s.DeviceID = r.u32()
	s.Offered = r.u64()
	s.Accepted = r.u64()
	for _, v := range []*uint32{&s.Status, &s.DeviceSel, &s.DriverSel, &s.QueueSel, &s.Generation, &s.Interrupts} {
		*v = r.u32()
	}
	s.Queues = make([]mmio.QueueState, r.count("queues", maxQueues))
	for i := range s.Queues {
		s.Queues[i] = mmio.QueueState{
			Max: r.u16(), Size: r.u16(), Desc: r.u64(), Driver: r.u64(), Device: r.u64(),
			Ready: r.u32() != 0, Index: r.u16(),
		}
	}
	s.Device = r.blob("state of a device", maxState)
}

type writer struct{ b []byte }

func (w *writer) u32(v uint32)   { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)   { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) bytes(p []byte) { w.b = append(w.b, p...) }

func (w *writer) blob(p []byte) {
	w.u32(uint32(len(p)))
	w.bytes(p)
}

// reader takes values off b. After the first failure everything reads as zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

// take has the next n bytes, or nil.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("cut off")
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u16() uint16 {
	v := r.u32()
	if v > 0xffff {
		r.fail("%#x: too large", v)
		return 0
	}
	return uint16(v)
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) copy(to []byte) { copy(to, r.take(len(to))) }

// count reads the length of a list.
func (r *reader) count(what string, most int) int {
	n := r.u32()
	if uint64(n) > uint64(most) {
		r.fail("%d %s: at most %d", n, what, most)
		return 0
	}
	return int(n)
}

func (r *reader) blob(what string, most int) []byte {
	return append([]byte(nil), r.take(r.count("bytes of "+what, most))...)
}
