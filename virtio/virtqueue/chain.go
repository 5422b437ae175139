package virtqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Chain is a descriptor chain: buffers the device reads, then buffers it
// writes. They are guest memory and can change at any moment, so what is
// checked has to be copied first. Empty buffers are left out.
//
// A chain belongs to who popped it, may be handed to another goroutine, and
// stays valid until Release or the reset of the device.
type Chain struct {
	Head               uint16
	Readable, Writable [][]byte

	buffers *buffers
}

// buffers is what Readable and Writable are cut from.
type buffers struct{ list [][]byte }

var bufferPool = sync.Pool{New: func() any { return &buffers{list: make([][]byte, 0, 16)} }}

// Release lets a later Pop reuse the memory of Readable and Writable (not what
// they point to), which must not be used any more. Calling it is optional;
// copies of the chain share that memory, and only one of them may be released.
func (c *Chain) Release() {
	if c.buffers == nil {
		return
	}
	clear(c.buffers.list) // guest memory is not to be kept alive by the pool
	c.buffers.list = c.buffers.list[:0]
	bufferPool.Put(c.buffers)
	*c = Chain{}
}

// descriptor is a copy of struct virtq_desc (section 2.7.5).
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

func (q *Queue) descriptor(table uint64, i uint32) (descriptor, error) {
	var b [descSize]byte
	if err := q.mem.ReadAt(b[:], table+descSize*uint64(i)); err != nil {
		return descriptor{}, err
	}
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b[0:]),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}, nil
}

// walk follows the chain that starts at head: descriptors of the table, the
// last of which may refer to an indirect table instead (section 2.7.5.3). As
// no table is followed for more steps than it has entries, a cycle ends. On an
// error the returned chain is to be released.
func (q *Queue) walk(head uint16) (Chain, error) {
	c := Chain{Head: head, buffers: bufferPool.Get().(*buffers)}
	var (
		table, entries = q.cfg.Desc, uint32(q.cfg.Size)
		indirect       bool
		i              = uint32(head)
		steps          uint32
		total          uint64
		readable       int
		writing        bool
	)
	for {
		if steps++; steps > entries {
			return c, errors.New("longer than its table: descriptors form a cycle")
		}
		d, err := q.descriptor(table, i)
		if err != nil {
			return c, err
		}
		if d.flags&descIndirect != 0 {
			switch {
			case !q.cfg.Indirect:
				return c, errors.New("indirect descriptor, which was not negotiated")
			case indirect:
				return c, errors.New("indirect descriptor in an indirect table")
			case d.flags&descNext != 0:
				return c, errors.New("indirect descriptor with a next one")
			case d.len == 0 || d.len%descSize != 0:
				return c, fmt.Errorf("indirect table of %d bytes", d.len)
			case d.len/descSize > max(maxIndirect, uint32(q.cfg.Size)):
				return c, fmt.Errorf("indirect table of %d descriptors is too long", d.len/descSize)
			}
			// The table need not be aligned, but has to be memory as a whole.
			if _, err := q.mem.Slice(d.addr, uint64(d.len)); err != nil {
				return c, fmt.Errorf("indirect table: %w", err)
			}
			table, entries, indirect, i, steps = d.addr, d.len/descSize, true, 0, 0
			continue
		}
		if d.flags&descWrite != 0 {
			writing = true
		} else if writing {
			return c, errors.New("readable descriptor after a writable one")
		}
		if d.len != 0 {
			if total += uint64(d.len); total > MaxChainBytes {
				return c, fmt.Errorf("more than %d bytes", MaxChainBytes)
			}
			b, err := q.mem.Slice(d.addr, uint64(d.len))
			if err != nil {
				return c, err
			}
			c.buffers.list = append(c.buffers.list, b)
			if !writing {
				readable++
			}
		}
		if d.flags&descNext == 0 {
			break
		}
		if i = uint32(d.next); i >= entries {
			return c, fmt.Errorf("next %d: past the end of a table of %d", i, entries)
		}
	}
	c.Readable = c.buffers.list[:readable:readable]
	c.Writable = c.buffers.list[readable:len(c.buffers.list):len(c.buffers.list)]
	return c, nil
}
