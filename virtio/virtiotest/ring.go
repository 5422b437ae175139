package virtiotest

import (
	"encoding/binary"
	"fmt"
	"sync"

	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio/virtqueue"
)

// Descriptor flags (virtio 1.2, section 2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Descriptor is struct virtq_desc, to be written as it is, right or wrong.
type Descriptor struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Buffer is a piece of guest memory to be offered to a device.
type Buffer struct {
	Addr     uint64
	Len      uint32
	Writable bool
}

// Ring is the driver's side of a split virtqueue. Add, Publish and Used keep
// to the rules; SetDescriptor and the other Set methods need not. Only the
// first three may be called concurrently.
type Ring struct {
	Mem    *guestmem.Memory
	Config virtqueue.Config

	mu       sync.Mutex
	free     []uint16
	chains   map[uint16][]uint16 // descriptors in use, by head
	nextUsed uint16
	avail    uint16 // index of the available ring
}

// NewRing lays a zeroed ring out at addr, a multiple of 16.
func NewRing(mem *guestmem.Memory, addr uint64, size uint16, eventIdx, indirect bool) *Ring {
	n := uint64(size)
	r := &Ring{Mem: mem, chains: map[uint16][]uint16{}}
	r.Config = virtqueue.Config{Size: size, EventIdx: eventIdx, Indirect: indirect}
	r.Config.Desc = addr
	r.Config.Driver = addr + 16*n
	r.Config.Device = (r.Config.Driver + 4 + 2*n + 2 + 3) &^ 3
	must(mem.WriteAt(make([]byte, RingBytes(size)), addr))
	for i := range size {
		r.free = append(r.free, size-1-i)
	}
	return r
}

// RingBytes is the room that a ring takes.
func RingBytes(size uint16) uint64 { return 16*uint64(size) + 2*uint64(size) + 8*uint64(size) + 16 }

// SetDescriptor writes entry i of the descriptor table.
func (r *Ring) SetDescriptor(i uint16, d Descriptor) { r.SetDescriptorAt(r.Config.Desc, i, d) }

// SetDescriptorAt writes entry i of an (indirect) table.
func (r *Ring) SetDescriptorAt(table uint64, i uint16, d Descriptor) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], d.Addr)
	binary.LittleEndian.PutUint32(b[8:], d.Len)
	binary.LittleEndian.PutUint16(b[12:], d.Flags)
	binary.LittleEndian.PutUint16(b[14:], d.Next)
	must(r.Mem.WriteAt(b[:], table+16*uint64(i)))
}

// SetAvailable writes a slot of the available ring.
func (r *Ring) SetAvailable(slot, head uint16) {
	must(r.Mem.StoreUint16(r.Config.Driver+4+2*uint64(slot), head))
}

// SetAvailableIdx writes the index of the available ring.
func (r *Ring) SetAvailableIdx(idx uint16) {
	r.avail = idx
	must(r.Mem.StoreUint16(r.Config.Driver+2, idx))
}

// SetUsedEvent asks for an interrupt once the used index passes idx.
func (r *Ring) SetUsedEvent(idx uint16) {
	must(r.Mem.StoreUint16(r.Config.Driver+4+2*uint64(r.Config.Size), idx))
}

// SetNoInterrupt sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
func (r *Ring) SetNoInterrupt(on bool) {
	var flags uint16
	if on {
		flags = 1
	}
	must(r.Mem.StoreUint16(r.Config.Driver, flags))
}

// AvailableEvent returns the index at which the device wants to be notified.
func (r *Ring) AvailableEvent() uint16 {
	v, err := r.Mem.LoadUint16(r.Config.Device + 4 + 8*uint64(r.Config.Size))
	must(err)
	return v
}

// UsedFlags returns the flags of the used ring.
func (r *Ring) UsedFlags() uint16 {
	v, err := r.Mem.LoadUint16(r.Config.Device)
	must(err)
	return v
}

// UsedIdx returns the index of the used ring.
func (r *Ring) UsedIdx() uint16 {
	v, err := r.Mem.LoadUint16(r.Config.Device + 2)
	must(err)
	return v
}

// Add makes a chain of the buffers available and returns its head. It returns
// false if there are not enough free descriptors.
func (r *Ring) Add(buffers ...Buffer) (uint16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids, ok := r.take(len(buffers))
	if !ok {
		return 0, false
	}
	for i, b := range buffers {
		d := Descriptor{Addr: b.Addr, Len: b.Len}
		if b.Writable {
			d.Flags |= Write
		}
		if i+1 < len(ids) {
			d.Flags |= Next
			d.Next = ids[i+1]
		}
		r.SetDescriptor(ids[i], d)
	}
	r.publish(ids[0])
	return ids[0], true
}

// AddIndirect is Add with the descriptors in an indirect table at addr.
func (r *Ring) AddIndirect(addr uint64, buffers ...Buffer) (uint16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids, ok := r.take(1)
	if !ok {
		return 0, false
	}
	for i, b := range buffers {
		d := Descriptor{Addr: b.Addr, Len: b.Len}
		if b.Writable {
			d.Flags |= Write
		}
		if i+1 < len(buffers) {
			d.Flags |= Next
			d.Next = uint16(i + 1)
		}
		r.SetDescriptorAt(addr, uint16(i), d)
	}
	r.SetDescriptor(ids[0], Descriptor{Addr: addr, Len: uint32(16 * len(buffers)), Flags: Indirect})
	r.publish(ids[0])
	return ids[0], true
}

// Publish makes whatever is at descriptor head available.
func (r *Ring) Publish(head uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.publish(head)
}

func (r *Ring) publish(head uint16) {
	r.SetAvailable(r.avail&(r.Config.Size-1), head)
	r.SetAvailableIdx(r.avail + 1)
}

func (r *Ring) take(n int) ([]uint16, bool) {
	if n == 0 || n > len(r.free) {
		return nil, false
	}
	ids := append([]uint16(nil), r.free[len(r.free)-n:]...)
	r.free = r.free[:len(r.free)-n]
	r.chains[ids[0]] = ids
	return ids, true
}

// Used takes the next element off the used ring: the head of the chain and the
// bytes written. It returns false when there is none. A head that was never
// made available makes it panic.
func (r *Ring) Used() (head uint16, n uint32, ok bool) {
	id, n, ok := r.TakeUsed()
	if ok && id >= uint32(r.Config.Size) {
		panic(fmt.Sprintf("virtiotest: used ring has id %d", id))
	}
	return uint16(id), n, ok
}

// TakeUsed is Used for a ring that the driver itself may have spoilt.
func (r *Ring) TakeUsed() (id, n uint32, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.UsedIdx() == r.nextUsed {
		return 0, 0, false
	}
	var b [8]byte
	must(r.Mem.ReadAt(b[:], r.Config.Device+4+8*uint64(r.nextUsed&(r.Config.Size-1))))
	r.nextUsed++
	id = binary.LittleEndian.Uint32(b[0:])
	if chain, ok := r.chains[uint16(id)]; ok && id < uint32(r.Config.Size) {
		r.free = append(r.free, chain...)
		delete(r.chains, uint16(id))
	}
	return id, binary.LittleEndian.Uint32(b[4:]), true
}

// ArmInterrupt asks for an interrupt with the next used element, and reports
// whether there is one already.
func (r *Ring) ArmInterrupt() (pending bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Config.EventIdx {
		r.SetUsedEvent(r.nextUsed)
	} else {
		r.SetNoInterrupt(false)
	}
	return r.UsedIdx() != r.nextUsed
}

// wantsKick reports whether the device asked to be told of the entries from
// old on (section 2.7.10).
func (r *Ring) wantsKick(old uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Config.EventIdx {
		return r.avail-r.AvailableEvent()-1 < r.avail-old
	}
	return r.UsedFlags()&1 == 0
}

func must(err error) {
	if err != nil {
		panic("virtiotest: " + err.Error())
	}
}
