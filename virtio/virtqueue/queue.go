// Package virtqueue is the device's side of split virtqueues (virtio 1.2,
// section 2.7), with VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC.
//
// The rings are written by a guest nobody trusts. Indices and descriptors are
// copied out once, checked, and the copy used. A driver that breaks a rule
// gets an error, and the queue that returned it returns nothing else from
// then on.
package virtqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"runv.dev/runv/internal/guestmem"
)

const (
	// MaxSize is the largest queue the specification allows, in entries.
	MaxSize = 32768

	// MaxChainBytes bounds what the buffers of one chain add up to; the
	// specification would allow 4 GiB.
	MaxChainBytes = 1 << 30

	// maxIndirect bounds an indirect table, in descriptors, when the queue is
	// smaller than that: drivers do exceed a small queue's size.
	maxIndirect = 1024
)

// Layout of the rings (sections 2.7.5, 2.7.6 and 2.7.8).
const (
	descSize = 16

	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	ringFlags = 0
	ringIdx   = 2
	ringRing  = 4

	availElem = 2
	usedElem  = 8

	availNoInterrupt = 1
	usedNoNotify     = 1
)

// ErrStopped is returned by a queue after Stop.
var ErrStopped = errors.New("virtqueue stopped")

// Config describes a virtqueue as the driver has set it up.
type Config struct {
	Size uint16 // entries, a power of two

	// Guest addresses of the descriptor table, of the available ring (driver
	// area) and of the used ring (device area).
	Desc, Driver, Device uint64

	EventIdx bool // VIRTIO_F_EVENT_IDX was negotiated
	Indirect bool // VIRTIO_F_INDIRECT_DESC was negotiated
}

// Queue is a split virtqueue. Its methods may be called concurrently.
type Queue struct {
	mem *guestmem.Memory
	cfg Config

	mu        sync.Mutex
	err       error    // why the queue is dead
	nextAvail uint16   // index of the next entry of the available ring
	nextUsed  uint16   // index of the next entry of the used ring
	inFlight  []uint64 // bitmap of heads popped and not pushed
}

// New checks the placement of the rings and returns the queue, empty as a
// driver has just initialized it, with notifications on.
func New(mem *guestmem.Memory, cfg Config) (*Queue, error) {
	if cfg.Size == 0 || cfg.Size > MaxSize || bits.OnesCount16(cfg.Size) != 1 {
		return nil, fmt.Errorf("virtqueue size %d: not a power of two up to %d", cfg.Size, MaxSize)
	}
	n := uint64(cfg.Size)
	areas := []struct {
		name             string
		addr, len, align uint64
	}{
		{"descriptor table", cfg.Desc, descSize * n, 16},
		{"available ring", cfg.Driver, ringRing + availElem*n + 2, 2},
		{"used ring", cfg.Device, ringRing + usedElem*n + 2, 4},
	}
	for i, a := range areas {
		if a.addr%a.align != 0 {
			return nil, fmt.Errorf("%s at %#x: not aligned to %d bytes", a.name, a.addr, a.align)
		}
		if _, err := mem.Slice(a.addr, a.len); err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		for _, b := range areas[:i] {
			if a.addr < b.addr+b.len && b.addr < a.addr+a.len {
				return nil, fmt.Errorf("%s at %#x: overlaps the %s at %#x", a.name, a.addr, b.name, b.addr)
			}
		}
	}
	return &Queue{mem: mem, cfg: cfg, inFlight: make([]uint64, (n+63)/64)}, nil
}

// Size returns the number of entries.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Pop takes the next available chain. It returns false when there is none, and
// an error when the driver broke the rules.
func (q *Queue) Pop() (Chain, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return Chain{}, false, q.err
	}
	c, ok, err := q.pop()
	if err != nil {
		q.err = fmt.Errorf("virtqueue: %w", err)
		return Chain{}, false, q.err
	}
	return c, ok, nil
}

func (q *Queue) pop() (Chain, bool, error) {
	pending, err := q.pending()
	if err != nil || pending == 0 {
		return Chain{}, false, err
	}
	slot := uint64(q.nextAvail & (q.cfg.Size - 1))
	head, err := q.mem.LoadUint16(q.cfg.Driver + ringRing + availElem*slot)
	if err != nil {
		return Chain{}, false, err
	}
	if head >= q.cfg.Size {
		return Chain{}, false, fmt.Errorf("head %d: past the end of the descriptor table", head)
	}
	word, bit := &q.inFlight[head/64], uint64(1)<<(head%64)
	if *word&bit != 0 {
		return Chain{}, false, fmt.Errorf("head %d: made available twice", head)
	}
	c, err := q.walk(head)
	if err != nil {
		c.Release()
		return Chain{}, false, fmt.Errorf("chain %d: %w", head, err)
	}
	*word |= bit
	q.nextAvail++
	return c, true, nil
}

// pending returns how many entries of the available ring are waiting.
func (q *Queue) pending() (uint16, error) {
	idx, err := q.mem.LoadUint16(q.cfg.Driver + ringIdx)
	if err != nil {
		return 0, err
	}
	n := idx - q.nextAvail
	if n > q.cfg.Size {
		return 0, fmt.Errorf("available index jumped from %d to %d in a queue of %d", q.nextAvail, idx, q.cfg.Size)
	}
	return n, nil
}

// Push puts a popped chain on the used ring; written is the number of bytes
// the device wrote to its writable part, counted from its start. It reports
// whether the driver wants to be notified: who pushes several chains in a row
// interrupts once if any of them asked for it.
func (q *Queue) Push(head uint16, written uint32) (notify bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false, q.err
	}
	if head >= q.cfg.Size || q.inFlight[head/64]&(1<<(head%64)) == 0 {
		return false, fmt.Errorf("virtqueue: push of head %d, which is not in flight", head)
	}
	q.inFlight[head/64] &^= 1 << (head % 64)
	slot := uint64(q.nextUsed & (q.cfg.Size - 1))
	var elem [usedElem]byte
	binary.LittleEndian.PutUint32(elem[0:], uint32(head))
	binary.LittleEndian.PutUint32(elem[4:], written)
	if err := q.mem.WriteAt(elem[:], q.cfg.Device+ringRing+usedElem*slot); err != nil {
		return false, fmt.Errorf("virtqueue: %w", err)
	}
	old := q.nextUsed
	q.nextUsed++
	// The store is a fence: the driver sees the element before the index, and
	// what it wants to be told is read after it.
	if err := q.mem.StoreUint16(q.cfg.Device+ringIdx, q.nextUsed); err != nil {
		return false, fmt.Errorf("virtqueue: %w", err)
	}
	notify, err = q.wantsInterrupt(old)
	if err != nil {
		return false, fmt.Errorf("virtqueue: %w", err)
	}
	return notify, nil
}

// wantsInterrupt implements section 2.7.7.2 for the used index having moved
// from old to nextUsed.
func (q *Queue) wantsInterrupt(old uint16) (bool, error) {
	if q.cfg.EventIdx {
		event, err := q.mem.LoadUint16(q.cfg.Driver + ringRing + availElem*uint64(q.cfg.Size))
		return q.nextUsed-event-1 < q.nextUsed-old, err
	}
	flags, err := q.mem.LoadUint16(q.cfg.Driver + ringFlags)
	return flags&availNoInterrupt == 0, err
}

// SetNotify asks the driver for available buffer notifications, or to leave
// them out, which is a hint (section 2.7.10). When it asks for them, pending
// says that buffers are available already, for which there may be none.
func (q *Queue) SetNotify(on bool) (pending bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false, q.err
	}
	if err := q.setNotify(on); err != nil {
		return false, fmt.Errorf("virtqueue: %w", err)
	}
	if !on {
		return false, nil
	}
	n, err := q.pending()
	if err != nil {
		q.err = fmt.Errorf("virtqueue: %w", err)
	}
	return n != 0, q.err
}

func (q *Queue) setNotify(on bool) error {
	if q.cfg.EventIdx {
		if !on {
			// The event index is left behind nextAvail, which silences the
			// driver once it has passed it.
			return nil
		}
		return q.mem.StoreUint16(q.cfg.Device+ringRing+usedElem*uint64(q.cfg.Size), q.nextAvail)
	}
	var flags uint16
	if !on {
		flags = usedNoNotify
	}
	return q.mem.StoreUint16(q.cfg.Device+ringFlags, flags)
}

// Stop makes every later call fail with ErrStopped, so that who still holds a
// chain after a reset cannot write to rings that are no longer there.
func (q *Queue) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = ErrStopped
}
