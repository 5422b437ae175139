package passthrough

import (
	"sync"

	"golang.org/x/sys/unix"
)

// handle is an open file or directory.
type handle struct {
	node *inode // pinned
	fd   int
	dir  bool
	// writable tells whether fd is open for writing.
	writable bool
	// flush asks for close(2) to be reported: a network file system may
	// have errors to tell only then.
	flush bool

	// mu orders reads of a directory. ahead are the entries from aheadAt, the
	// position of the last request, to pos, which is that of fd.
	mu           sync.Mutex
	pos, aheadAt int64
	ahead        []byte
	kept         int // of FS.ahead

	// Guarded by handleTable.mu.
	refs     int
	released bool
}

// handleTable holds what the client has open.
type handleTable struct {
	max int

	mu     sync.Mutex
	byID   map[uint64]*handle
	nextID uint64
	total  int // with those that are released while a request uses them
}

func newHandleTable(maxHandles int) *handleTable {
	return &handleTable{max: maxHandles, byID: map[uint64]*handle{}, nextID: 1}
}

// add takes over h.fd and pins h.node until the handle is released. On
// failure h.fd is closed.
func (t *handleTable) add(f *FS, h *handle) (uint64, error) {
	t.mu.Lock()
	if t.total >= t.max {
		t.mu.Unlock()
		unix.Close(h.fd)
		return 0, unix.ENFILE
	}
	id := t.nextID
	t.nextID++
	t.total++
	t.byID[id] = h
	t.mu.Unlock()
	f.inodes.hold(h.node)
	return id, nil
}

// get returns the handle id of the given node, which stays open until put.
func (t *handleTable) get(id, node uint64, dir bool) (*handle, error) {
	if node == RootAlias {
		node = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[id]
	if h == nil || h.node.id != node || h.dir != dir {
		return nil, unix.EBADF
	}
	h.refs++
	return h, nil
}

func (t *handleTable) put(f *FS, h *handle) {
	t.mu.Lock()
	h.refs--
	gone := t.drop(h)
	t.mu.Unlock()
	if gone {
		h.close(f)
	}
}

// drop reports whether nothing uses h any more.
func (t *handleTable) drop(h *handle) bool {
	if !h.released || h.refs > 0 {
		return false
	}
	t.total--
	return true
}

func (t *handleTable) release(f *FS, id, node uint64, dir bool) {
	if node == RootAlias {
		node = 1
	}
	t.mu.Lock()
	h := t.byID[id]
	if h == nil || h.node.id != node || h.dir != dir {
		t.mu.Unlock()
		return
	}
	delete(t.byID, id)
	h.released = true
	gone := t.drop(h)
	t.mu.Unlock()
	if gone {
		h.close(f)
	}
}

func (t *handleTable) clear(f *FS) {
	t.mu.Lock()
	var gone []*handle
	for id, h := range t.byID {
		delete(t.byID, id)
		h.released = true
		if t.drop(h) {
			gone = append(gone, h)
		}
	}
	t.mu.Unlock()
	for _, h := range gone {
		h.close(f)
	}
}

func (h *handle) close(f *FS) {
	f.ahead.Add(-int64(h.kept))
	unix.Close(h.fd)
	f.inodes.put(h.node)
}
