package fs

import (
	"fmt"
	"sync"
	"time"

	"runv.dev/runv/virtio"
)

// activation is the device at work, from DRIVER_OK to reset. Each request
// queue has workers of which one at a time waits for a request; it lets
// another one wait before it serves what it got.
type activation struct {
	d      *Device
	queues []virtio.ActiveQueue
	fail   func(error)
	failed sync.Once

	stopped chan struct{}
	workers sync.WaitGroup

	// mu is held for reading while guest memory is written or a queue used,
	// neither of which may happen once over is set.
	mu   sync.RWMutex
	over bool

	countMu sync.Mutex
	running int
}

func (d *Device) start(act virtio.Activation) *activation {
	a := &activation{d: d, queues: act.Queues, fail: act.Fail, stopped: make(chan struct{})}
	for i, q := range a.queues {
		if q.Queue == nil {
			continue
		}
		n := d.workers
		if i == 0 {
			n = 1 // FORGETs wait for nothing
		}
		turn := make(chan struct{}, 1)
		turn <- struct{}{}
		for range n {
			a.workers.Add(1)
			a.count(1)
			go a.work(q, turn)
		}
	}
	return a
}

func (a *activation) count(n int) int {
	a.countMu.Lock()
	defer a.countMu.Unlock()
	a.running += n
	return a.running
}

func (a *activation) work(q virtio.ActiveQueue, turn chan struct{}) {
	defer a.workers.Done()
	defer a.count(-1)
	r := &request{commit: a.commit}
	for {
		select {
		case <-a.stopped:
			return
		case <-turn:
		}
		c, ok, err := q.Next(a.stopped)
		turn <- struct{}{}
		if err != nil {
			a.broken(err)
			return
		}
		if !ok {
			return
		}
		r.readable, r.writable = c.Readable, c.Writable
		n := a.d.server.handle(r)
		r.forget()
		head := c.Head
		a.commit(func() {
			c.Release()
			err = q.Done(head, uint32(n))
		})
		if err != nil {
			a.broken(err)
			return
		}
	}
}

// forget drops references to guest memory, and a large buffer.
func (r *request) forget() {
	clear(r.iov)
	r.readable, r.writable = nil, nil
	if cap(r.in) > keepBuffer {
		r.in = nil
	}
	if cap(r.out) > keepBuffer {
		r.out = nil
	}
}

// keepBuffer is the memory for a request that a worker keeps.
const keepBuffer = 16 << 10

// commit runs f unless the device has been reset.
func (a *activation) commit(f func()) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if !a.over {
		f()
	}
}

// broken reports that a queue cannot be used any more.
func (a *activation) broken(err error) {
	select {
	case <-a.stopped:
		return
	default:
	}
	a.failed.Do(func() { a.fail(fmt.Errorf("virtio-fs: %w", err)) })
}

// stop ends the workers and returns how many of them did not in time.
func (a *activation) stop() int {
	close(a.stopped)
	for _, q := range a.queues {
		if q.Queue != nil {
			_ = q.Kick.Signal() // fails only if closed, which ends Next as well
		}
	}
	done := make(chan struct{})
	go func() {
		a.workers.Wait()
		close(done)
	}()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	left := 0
	select {
	case <-done:
	case <-timer.C:
		left = a.count(0)
		a.d.stuck.Add(int64(left))
		go func() {
			<-done
			a.d.stuck.Add(-int64(left))
		}()
	}
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
	return left
}
