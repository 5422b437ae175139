package passthrough

import "golang.org/x/sys/unix"

// A client may know far more inodes than a process may have descriptors.
// Beyond a soft limit the descriptor of the inode that has been idle longest
// is closed, provided that its name still leads to it; it is opened again by
// that name, and checked to be the same object, when it is needed. Before a
// name is removed or replaced the inode it belongs to is opened again, so
// that it stays reachable like a file that is open. An inode whose name was
// changed behind the client's back answers ESTALE, upon which the client looks
// it up anew.

const (
	// evictTries bounds the inodes looked at for one descriptor to close.
	evictTries = 4

	// reopenDepth bounds the directories opened on the way to one inode.
	reopenDepth = 4096
)

// evict closes the descriptors of idle inodes while there are too many.
func (t *inodeTable) evict() {
	for range evictTries {
		t.mu.Lock()
		n := t.idle.next
		if t.open < t.soft || n == &t.idle {
			t.mu.Unlock()
			return
		}
		t.pin(n)
		dir, name := n.parent, n.name
		usable := dir.fd >= 0
		if usable {
			t.pin(dir)
		}
		t.mu.Unlock()

		var st unix.Statx_t
		named := usable && statEntry(dir.fd, name, &st) == nil && n.is(&st)

		t.mu.Lock()
		fd := -1
		if n.pins == 1 && n.parent == dir && n.name == name {
			switch {
			case named:
				fd, n.fd = n.fd, -1
				t.open--
				t.closed[entry{dir, name}] = n
			case usable:
				n.stuck = true
			}
		}
		t.mu.Unlock()
		if fd >= 0 {
			unix.Close(fd)
		}
		t.put(n)
		if usable {
			t.put(dir)
		}
	}
}

// reopen opens the descriptor of n, which the caller has pinned.
func (t *inodeTable) reopen(n *inode, depth int) error {
	t.mu.Lock()
	dir, name, open := n.parent, n.name, n.fd >= 0
	if open || dir == nil || depth > reopenDepth {
		t.mu.Unlock()
		if open {
			return nil
		}
		return unix.ESTALE
	}
	t.pin(dir)
	dirOpen := dir.fd >= 0
	t.mu.Unlock()
	defer t.put(dir)

	if !dirOpen {
		if err := t.reopen(dir, depth+1); err != nil {
			return err
		}
	}
	t.evict()
	fd, err := openPath(dir.fd, name)
	if err == unix.ENOENT {
		err = unix.ESTALE
	}
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = statFD(fd, &st)
	if err == nil && !n.is(&st) {
		err = unix.ESTALE
	}
	t.mu.Lock()
	switch {
	case n.fd >= 0:
		err = nil
	case err == nil && t.open >= t.hard:
		err = unix.ENFILE
	case err == nil:
		t.setOpen(n, fd)
		fd = -1
	}
	t.mu.Unlock()
	if fd >= 0 {
		unix.Close(fd)
	}
	return err
}

// retain makes sure that the inode last seen as dir's entry name outlives the
// name.
func (t *inodeTable) retain(dir *inode, name string) {
	t.mu.Lock()
	n := t.closed[entry{dir, name}]
	if n != nil {
		t.pin(n)
	}
	t.mu.Unlock()
	if n == nil {
		return
	}
	// A failure means that the name leads elsewhere: nothing is lost.
	_ = t.reopen(n, 0)
	t.put(n)
}
