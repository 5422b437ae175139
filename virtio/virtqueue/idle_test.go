package virtqueue_test

import (
	"errors"
	"testing"

	"runv.dev/runv/virtio/virtiotest"
	"runv.dev/runv/virtio/virtqueue"
)

// TestSave takes chains, gives some back, and goes on in a new queue: those
// that were not given back come again, and those that nobody took come too.
func TestSave(t *testing.T) {
	for _, tc := range []struct {
		name      string
		rounds    int // chains used before, so that the indices wrap
		add, take int
		use       []int // of those taken, in this order
		busy      bool
		again     int // chains that come from the new queue
	}{
		{name: "fresh"},
		{name: "waiting", add: 3, again: 3},
		{name: "all used", add: 3, take: 3, use: []int{0, 1, 2}},
		{name: "held", add: 5, take: 3, again: 5},
		{name: "first used, others held", add: 5, take: 3, use: []int{0}, again: 4},
		{name: "wrapped", rounds: 70000, add: 5, take: 3, use: []int{0}, again: 4},
		{name: "out of turn", add: 3, take: 3, use: []int{1}, busy: true},
		{name: "last used", add: 3, take: 3, use: []int{2, 1}, busy: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q, r := newQueue(t, 8, false, false)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			pop := func(q *virtqueue.Queue) virtqueue.Chain {
				t.Helper()
				c, ok, err := q.Pop()
				must(err)
				if !ok {
					t.Fatal("no chain")
				}
				return c
			}
			push := func(q *virtqueue.Queue, head uint16) {
				t.Helper()
				_, err := q.Push(head, 0)
				must(err)
				if _, _, ok := r.Used(); !ok {
					t.Fatal("nothing used")
				}
			}
			buffer := virtiotest.Buffer{Addr: dataAddr, Len: 16, Writable: true}
			add := func() {
				t.Helper()
				if _, ok := r.Add(buffer); !ok {
					t.Fatal("no free descriptor")
				}
			}
			for range tc.rounds {
				add()
				push(q, pop(q).Head)
			}
			for range tc.add {
				add()
			}
			var taken []uint16
			for range tc.take {
				taken = append(taken, pop(q).Head)
			}
			before := q.Progress()
			for _, i := range tc.use {
				push(q, taken[i])
			}
			if moved := q.Progress() != before; moved != (len(tc.use) > 0) {
				t.Errorf("progress: %v after %d chains", moved, len(tc.use))
			}
			index, err := q.Save()
			if tc.busy != errors.Is(err, virtqueue.ErrBusy) || !tc.busy && err != nil {
				t.Fatalf("Save: %v", err)
			}
			if _, _, err := q.Pop(); !errors.Is(err, virtqueue.ErrStopped) {
				t.Errorf("Pop of a saved queue: %v", err)
			}
			if tc.busy {
				return
			}
			n, err := virtqueue.New(r.Mem, r.Config)
			must(err)
			n.Resume(index)
			for range tc.again {
				push(n, pop(n).Head)
			}
			if _, ok, err := n.Pop(); ok || err != nil {
				t.Errorf("one more chain: %v, %v", ok, err)
			}
			add()
			push(n, pop(n).Head)
		})
	}
}

// TestFreeze: a frozen queue says what Save would, its users wait, and it goes
// on when it is thawed. One that is at work is not frozen.
func TestFreeze(t *testing.T) {
	q, r := newQueue(t, 8, false, false)
	buffer := virtiotest.Buffer{Addr: dataAddr, Len: 16, Writable: true}
	for range 3 {
		if _, ok := r.Add(buffer); !ok {
			t.Fatal("no free descriptor")
		}
	}
	first, _, err := q.Pop()
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := q.Pop()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Push(second.Head, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Freeze(); !errors.Is(err, virtqueue.ErrBusy) {
		t.Fatalf("Freeze of a queue at work: %v", err)
	}
	if _, err := q.Push(first.Head, 0); err != nil {
		t.Fatal(err)
	}
	index, err := q.Freeze()
	if err != nil || index != 2 {
		t.Fatalf("Freeze: %d, %v; want 2", index, err)
	}
	popped := make(chan bool)
	go func() {
		_, ok, err := q.Pop()
		popped <- ok && err == nil
	}()
	n, err := virtqueue.New(r.Mem, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	n.Resume(index)
	if _, ok, err := n.Pop(); !ok || err != nil {
		t.Errorf("Pop of a queue that goes on from there: %v, %v", ok, err)
	}
	select {
	case <-popped:
		t.Error("a frozen queue is used")
	default:
	}
	q.Thaw()
	if !<-popped {
		t.Error("nothing popped after the thaw")
	}
	q.Stop()
	if _, err := q.Freeze(); !errors.Is(err, virtqueue.ErrStopped) {
		t.Errorf("Freeze of a stopped queue: %v", err)
	}
}
