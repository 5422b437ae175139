package virtiotest

import (
	"encoding/binary"
	"testing"

	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/mmio"
)

// Play is the body of a fuzz target: it has a driver do to dev what the bytes
// of script say, from requests as they should be to writes of registers,
// rings, descriptors and buffers at any moment. Whatever that was, the device
// has to be usable after a reset, or the test fails.
//
// A script may have the driver write what the device is reading, so fuzzing is
// not for the race detector; seeds should be fit for it.
func Play(tb testing.TB, dev virtio.Device, opt Options, script []byte) {
	tb.Helper()
	if opt.MemoryBytes == 0 {
		opt.MemoryBytes = 256 << 10
	}
	d := Start(tb, dev, opt)
	p := player{d: d, s: Script{script}}
	p.buffers()
	for steps := 0; len(p.s.b) > 0 && steps < maxSteps; steps++ {
		p.step()
	}
	d.Init()
}

// maxSteps bounds a script, for the sake of its successors.
const maxSteps = 2000

// Script is a fuzzer's bytes, to be taken as values. At its end all are zero.
type Script struct{ b []byte }

// NewScript returns a script of b.
func NewScript(b []byte) Script { return Script{b} }

// Len returns the number of bytes left.
func (s *Script) Len() int { return len(s.b) }

// Bytes takes up to n bytes.
func (s *Script) Bytes(n int) []byte {
	n = min(n, len(s.b))
	b := s.b[:n]
	s.b = s.b[n:]
	return b
}

// Uint takes an n-byte little-endian number.
func (s *Script) Uint(n int) uint64 {
	var b [8]byte
	copy(b[:], s.Bytes(n))
	return binary.LittleEndian.Uint64(b[:])
}

// Below takes a byte as a number below n.
func (s *Script) Below(n int) int { return int(s.Uint(1)) % n }

// Address takes an address: mostly of the memory, rarely any.
func (s *Script) Address(low uint64) uint64 {
	switch s.Below(8) {
	case 0:
		return s.Uint(8)
	case 1:
		return HighMemory + s.Uint(2)
	case 2:
		return low - s.Uint(1)
	default:
		return s.Uint(4) % low
	}
}

type player struct {
	d    *Driver
	s    Script
	data uint64 // address of a page for the buffers of requests
}

// buffers has to follow each Init, which takes all memory back.
func (p *player) buffers() { p.data = p.d.Alloc(4 * guestmem.PageSize) }

func (p *player) queue() *Queue { return p.d.Queues[p.s.Below(len(p.d.Queues))] }

func (p *player) step() {
	s, d := &p.s, p.d
	low := uint64(d.opt.MemoryBytes)
	switch s.Below(16) {
	case 0: // any register
		d.Set(s.Uint(1)*4, uint32(s.Uint(4)))
	case 1: // any register, any width
		b := append([]byte(nil), s.Bytes(s.Below(10))...)
		offset := s.Uint(2)
		d.Transport.Write(offset, b)
		d.Transport.Read(offset, b)
	case 2: // status
		d.Set(mmio.Status, uint32(s.Uint(1)))
	case 3:
		d.Init()
		p.buffers()
	case 4, 5, 6, 7: // a request
		q := p.queue()
		var buffers []Buffer
		for n := s.Below(3); n > 0; n-- {
			data := s.Bytes(s.Below(64))
			b := Buffer{Addr: p.data + uint64(len(buffers))*64, Len: uint32(len(data))}
			must(d.Mem.WriteAt(data, b.Addr))
			buffers = append(buffers, b)
		}
		for n := s.Below(3); n > 0; n-- {
			buffers = append(buffers, Buffer{
				Addr:     p.data + guestmem.PageSize*uint64(1+n),
				Len:      uint32(s.Uint(2)) % guestmem.PageSize,
				Writable: true,
			})
		}
		old := q.avail
		if _, ok := q.Add(buffers...); ok && q.wantsKick(old) {
			q.Notify()
		}
	case 8: // take back what is done
		q := p.queue()
		for range q.Config.Size {
			if _, _, ok := q.TakeUsed(); !ok {
				break
			}
		}
	case 9: // a descriptor
		q := p.queue()
		q.SetDescriptor(uint16(s.Uint(2))%q.Config.Size, p.descriptor())
	case 10: // an indirect table in the buffers
		q := p.queue()
		for i := range uint16(s.Below(4)) {
			q.SetDescriptorAt(p.data, i, p.descriptor())
		}
		q.SetDescriptor(0, Descriptor{Addr: p.data + s.Uint(1)&8, Len: uint32(s.Uint(1)), Flags: Indirect})
		q.Publish(0)
		q.Notify()
	case 11:
		q := p.queue()
		q.Publish(uint16(s.Uint(1)))
		q.Notify()
	case 12:
		q := p.queue()
		q.SetAvailableIdx(q.avail + uint16(s.Uint(2)))
		q.Notify()
	case 13:
		q := p.queue()
		q.SetUsedEvent(uint16(s.Uint(2)))
		q.SetNoInterrupt(s.Below(2) == 0)
	case 14:
		p.queue().Notify()
	case 15: // any memory; what is not there is refused
		addr := s.Address(low)
		_ = d.Mem.WriteAt(s.Bytes(s.Below(32)), addr)
	}
}

func (p *player) descriptor() Descriptor {
	return Descriptor{
		Addr:  p.s.Address(uint64(p.d.opt.MemoryBytes)),
		Len:   uint32(p.s.Uint(1 + p.s.Below(4))),
		Flags: uint16(p.s.Below(16)),
		Next:  uint16(p.s.Uint(1)),
	}
}
