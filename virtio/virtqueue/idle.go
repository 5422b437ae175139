package virtqueue

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrBusy says that a queue cannot be saved: the device answers out of turn.
var ErrBusy = errors.New("virtqueue busy")

// Progress changes whenever the device takes or uses a chain.
func (q *Queue) Progress() uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return uint32(q.nextAvail)<<16 | uint32(q.nextUsed)
}

// Save stops the queue and returns the index by which Resume goes on with it.
// The device must not be at work on a chain. Those that it has taken to have
// them at hand, which must be the last ones, are available again then, as are
// those that it has not taken yet.
func (q *Queue) Save() (index uint16, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return 0, q.err
	}
	q.err = ErrStopped
	return q.standing()
}

// Freeze is Save of a queue that goes on at Thaw; who uses it until then waits.
// After an error it is not frozen.
func (q *Queue) Freeze() (index uint16, err error) {
	q.mu.Lock()
	if err = q.err; err == nil {
		index, err = q.standing()
	}
	if err != nil {
		q.mu.Unlock()
	}
	return index, err
}

// Thaw undoes Freeze.
func (q *Queue) Thaw() { q.mu.Unlock() }

// standing is the index by which Resume goes on. The caller holds mu.
func (q *Queue) standing() (uint16, error) {
	held := 0
	for _, word := range q.inFlight {
		held += bits.OnesCount64(word)
	}
	for i := range held {
		slot := uint64((q.nextAvail - 1 - uint16(i)) & (q.cfg.Size - 1))
		head, err := q.mem.LoadUint16(q.cfg.Driver + ringRing + availElem*slot)
		if err != nil {
			return 0, fmt.Errorf("virtqueue: %w", err)
		}
		if head >= q.cfg.Size || q.inFlight[head/64]&(1<<(head%64)) == 0 {
			return 0, fmt.Errorf("%w: %d chains are held, and not the last ones", ErrBusy, held)
		}
	}
	if used := q.nextAvail - uint16(held); used != q.nextUsed {
		return 0, fmt.Errorf("%w: %d chains taken, %d held, %d used", ErrBusy, q.nextAvail, held, q.nextUsed)
	}
	return q.nextUsed, nil
}

// Resume has a new queue go on where Save stopped an equal one.
func (q *Queue) Resume(index uint16) { q.nextAvail, q.nextUsed = index, index }
