// Package snapshot is the stored form of a virtual machine that stands still:
// everything that KVM and the devices know of it, and where its memory is.
//
// The bytes are read as if an enemy had written them: lengths and counts are
// checked before anything is made of them, and a checksum before anything is
// read at all. What they mean to KVM, KVM checks.
package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"runv.dev/runv/virtio/mmio"
	"runv.dev/runv/vmm/kvm"
)

// Version is that of the format. It changes with every change of what is
// stored, or of what a device makes of its part.
const Version = 2

// Machine is a virtual machine.
type Machine struct {
	Label       []byte // the owner's; compared, not interpreted
	MemoryBytes uint64
	Clock       uint64 // kvm-clock, in nanoseconds
	CPUID       []kvm.CPUIDEntry
	VCPUs       []kvm.VCPUState
	IOAPIC      IOAPIC
	Devices     []mmio.State
	Memory      Memory
}

// IOAPIC is the state of the userspace interrupt controller.
type IOAPIC struct {
	Selected    uint8
	ID          uint32
	Redirection []uint64
}

// Memory says which parts of the guest's memory the memory file holds, one
// after another from its beginning. All else is zero.
type Memory struct {
	// File identifies the memory file. It is compared, not interpreted.
	File    []byte
	Extents []Extent
	// Working is what a guest touches as soon as it goes on.
	Working WorkingSet
}

// WorkingSet is memory that is going to be used: written, or only read.
type WorkingSet struct{ Written, Read []Extent }

// Extent is a piece of the guest's memory: a range in the whole of it, without
// the gap below 4 GiB, in bytes and page-aligned.
type Extent struct{ Offset, Length uint64 }

// Bytes is the size of the memory file.
func (m *Memory) Bytes() uint64 {
	var n uint64
	for _, e := range m.Extents {
		n += e.Length
	}
	return n
}

// Bounds of what is decoded.
const (
	MaxExtents = 4096
	maxVCPUs   = 256
	maxCPUID   = 256
	maxDevices = 64
	maxQueues  = 64
	maxPins    = 256
	maxBlob    = 64 << 10
	maxState   = 32 << 20 // of a device: all that a guest knows of a share
	// MaxBytes bounds an encoded machine.
	MaxBytes = 64 << 20

	pageSize = 4096
)

// ErrDamaged says that bytes are not what Encode wrote.
var ErrDamaged = errors.New("damaged snapshot")

// magic begins every snapshot; then come the version, the checksum of all that
// follows, and that.
var magic = [8]byte{'r', 'u', 'n', 'v', 's', 'n', 'a', 'p'}

const headerSize = len(magic) + 4 + sha256.Size

// Encode is the stored form.
func (m *Machine) Encode() []byte {
	w := &writer{}
	w.bytes(magic[:])
	w.u32(Version)
	w.bytes(make([]byte, sha256.Size))
	m.encode(w)
	sum := sha256.Sum256(w.b[headerSize:])
	copy(w.b[headerSize-sha256.Size:], sum[:])
	return w.b
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Machine, error) {
	if len(b) < headerSize || !bytes.Equal(b[:len(magic)], magic[:]) {
		return nil, fmt.Errorf("%w: no header", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[len(magic):]); v != Version {
		return nil, fmt.Errorf("snapshot of format %d: this program's is %d", v, Version)
	}
	if sum := sha256.Sum256(b[headerSize:]); !bytes.Equal(sum[:], b[headerSize-sha256.Size:headerSize]) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	return decode(b[headerSize:])
}

func decode(b []byte) (*Machine, error) {
	r := &reader{b: b}
	m := new(Machine)
	m.decode(r)
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err == nil {
		m.check(r)
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, r.err)
	}
	return m, nil
}

// check looks at what belongs together.
func (m *Machine) check(r *reader) {
	if m.MemoryBytes%pageSize != 0 || len(m.VCPUs) == 0 {
		r.fail("%d bytes of memory, %d vCPUs", m.MemoryBytes, len(m.VCPUs))
	}
	for _, list := range [][]Extent{m.Memory.Extents, m.Memory.Working.Written, m.Memory.Working.Read} {
		var end uint64
		for _, e := range list {
			if e.Offset%pageSize != 0 || e.Length%pageSize != 0 || e.Length == 0 ||
				e.Offset < end || e.Offset > m.MemoryBytes || e.Length > m.MemoryBytes-e.Offset {
				r.fail("extent %#x+%#x", e.Offset, e.Length)
				return
			}
			end = e.Offset + e.Length
		}
	}
}
