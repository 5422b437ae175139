package virtio

import (
	"fmt"
	"sync"

	"runv.dev/runv/virtio/virtqueue"
)

// Serve hands the chains of q to handle, one after another, and gives each
// back with the number of bytes that handle reports as written. It returns nil
// once stop is closed and Kick signalled, and otherwise the error of handle or
// of the queue. A chain and its buffers are handle's only until it returns.
func (q ActiveQueue) Serve(stop <-chan struct{}, handle func(*virtqueue.Chain) (written uint32, err error)) error {
	var c virtqueue.Chain
	for {
		var ok bool
		var err error
		if c, ok, err = q.Next(stop); err != nil || !ok {
			return err
		}
		n, err := handle(&c)
		head := c.Head
		c.Release()
		if err != nil {
			return err
		}
		if err := q.Done(head, n); err != nil {
			return err
		}
	}
}

// ServeAll has Serve work on the queues in the background, each with the handler
// at its index; one without a handler, or not enabled, is left out. What Serve
// fails with goes to fail. stop ends it all and waits for that.
func (a Activation) ServeAll(handlers []func(*virtqueue.Chain) (uint32, error), fail func(queue int, err error)) (stop func()) {
	stopped := make(chan struct{})
	var running sync.WaitGroup
	for i, handle := range handlers {
		q := a.Queues[i]
		if handle == nil || q.Queue == nil {
			continue
		}
		running.Go(func() {
			if err := q.Serve(stopped, handle); err != nil {
				fail(i, err)
			}
		})
	}
	return func() {
		close(stopped)
		for _, q := range a.Queues {
			_ = q.Kick.Signal() // fails only if closed, which ends Serve as well
		}
		running.Wait()
	}
}

// Next waits for a chain. It returns false once stop is closed and Kick
// signalled.
func (q ActiveQueue) Next(stop <-chan struct{}) (virtqueue.Chain, bool, error) {
	for {
		select {
		case <-stop:
			return virtqueue.Chain{}, false, nil
		default:
		}
		c, ok, err := q.Pop()
		if err != nil || ok {
			return c, ok, err
		}
		pending, err := q.SetNotify(true)
		if err != nil {
			return virtqueue.Chain{}, false, err
		}
		if pending {
			continue
		}
		if err := q.Kick.Wait(); err != nil {
			return virtqueue.Chain{}, false, fmt.Errorf("notification: %w", err)
		}
		// Until the queue is found empty, more kicks tell nothing new.
		if _, err := q.SetNotify(false); err != nil {
			return virtqueue.Chain{}, false, err
		}
	}
}

// Done gives a chain back and interrupts the driver if it wants that.
func (q ActiveQueue) Done(head uint16, written uint32) error {
	notify, err := q.Push(head, written)
	if err == nil && notify {
		q.Interrupt()
	}
	return err
}
