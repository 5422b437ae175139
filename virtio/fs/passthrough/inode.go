package passthrough

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// key identifies an object of the host while a descriptor of it is open. The
// mount is part of it: a directory bind mounted read-only is another inode
// than the same directory reached elsewhere.
type key struct{ dev, ino, mnt uint64 }

func keyOf(st *unix.Statx_t) key {
	return key{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, st.Mnt_id}
}

// inode is an object that the client has looked up.
type inode struct {
	id    uint64
	key   key
	btime unix.StatxTimestamp // tells a reused inode number
	typ   uint32              // S_IFMT bits: never change
	mount bool                // a directory that something is mounted on

	// fd is an O_PATH descriptor. It is valid while the inode is pinned,
	// otherwise guarded by inodeTable.mu, and -1 while closed.
	fd int

	// The rest is guarded by inodeTable.mu.
	lookups    uint64 // references the client holds
	pins       int    // requests and handles at work
	children   int    // inodes whose parent this is
	parent     *inode // where it was last looked up, if anywhere
	name       string
	stuck      bool // its name no longer leads to it: fd stays open
	prev, next *inode

	stamp dataStamp
}

// dataStamp tells whether a file's contents are those of an earlier open.
type dataStamp struct {
	valid bool
	mtime unix.StatxTimestamp
	size  uint64
}

func (n *inode) identify(st *unix.Statx_t) {
	n.key, n.btime, n.typ = keyOf(st), st.Btime, uint32(st.Mode)&unix.S_IFMT
}

func (n *inode) is(st *unix.Statx_t) bool {
	return n.key == keyOf(st) && n.btime == st.Btime && n.typ == uint32(st.Mode)&unix.S_IFMT
}

// entry is a name in a directory.
type entry struct {
	dir  *inode
	name string
}

// inodeTable holds the inodes that the client knows, and bounds the
// descriptors they use. See reopen.go for how.
type inodeTable struct {
	soft, hard int // descriptors: start to close idle ones, refuse new ones
	max        int // inodes

	mu     sync.Mutex
	root   *inode
	byID   map[uint64]*inode
	byKey  map[key]*inode
	closed map[entry]*inode // inodes without a descriptor
	nextID uint64
	total  int   // inodes that exist, known to the client or not
	open   int   // descriptors
	idle   inode // ring of inodes with a descriptor and no pins, oldest first
}

func newInodeTable(root *inode, soft, hard, maxInodes int) *inodeTable {
	t := &inodeTable{
		soft: soft, hard: hard, max: maxInodes,
		root:   root,
		byID:   map[uint64]*inode{root.id: root},
		byKey:  map[key]*inode{root.key: root},
		closed: map[entry]*inode{},
		nextID: fuse.FUSE_ROOT_ID + 1,
		total:  1,
		open:   1,
	}
	t.idle.prev, t.idle.next = &t.idle, &t.idle
	root.pins = 1 // never idle
	return t
}

// get pins the inode with the given node id: until put, its descriptor stays
// open. It returns ESTALE for an id that the client does not hold.
func (t *inodeTable) get(id uint64) (*inode, error) {
	if id == RootAlias {
		id = fuse.FUSE_ROOT_ID
	}
	t.mu.Lock()
	n := t.byID[id]
	if n == nil {
		t.mu.Unlock()
		return nil, unix.ESTALE
	}
	t.pin(n)
	open := n.fd >= 0
	t.mu.Unlock()
	if open {
		return n, nil
	}
	if err := t.reopen(n, 0); err != nil {
		t.put(n)
		return nil, err
	}
	return n, nil
}

// getDir is get for a directory, which an entry is looked up or changed in.
func (t *inodeTable) getDir(id uint64) (*inode, error) {
	n, err := t.get(id)
	if err == nil && n.typ != unix.S_IFDIR {
		t.put(n)
		return nil, unix.ENOTDIR
	}
	return n, err
}

func (t *inodeTable) put(n *inode) {
	t.mu.Lock()
	n.pins--
	if n.pins == 0 {
		t.setIdle(n)
	}
	dead := t.reap(n, nil)
	t.mu.Unlock()
	closeAll(dead)
}

// hold pins an inode that is pinned already once more.
func (t *inodeTable) hold(n *inode) {
	t.mu.Lock()
	t.pin(n)
	t.mu.Unlock()
}

func (t *inodeTable) pin(n *inode) {
	n.pins++
	t.unlink(n)
}

func (t *inodeTable) unlink(n *inode) {
	if n.prev != nil {
		n.prev.next, n.next.prev = n.next, n.prev
		n.prev, n.next = nil, nil
	}
}

func (t *inodeTable) setIdle(n *inode) {
	if n.fd < 0 || n.stuck || n.parent == nil || n.prev != nil {
		return
	}
	last := t.idle.prev
	n.prev, n.next = last, &t.idle
	last.next, t.idle.prev = n, n
}

// add takes over fd, an O_PATH descriptor of dir's entry name with the
// attributes st, and returns its inode, pinned, with one more lookup. A nil
// dir is for a file without a name. On failure fd is closed.
func (t *inodeTable) add(fd int, st *unix.Statx_t, dir *inode, name string) (*inode, error) {
	t.evict()
	t.mu.Lock()
	n := t.byKey[keyOf(st)]
	if n != nil && !n.is(st) {
		// The number was reused while the inode had no descriptor.
		n = nil
	}
	if n == nil {
		if t.total >= t.max || t.open >= t.hard {
			t.mu.Unlock()
			unix.Close(fd)
			return nil, unix.ENFILE
		}
		n = &inode{id: t.nextID, fd: -1}
		n.identify(st)
		n.mount = dir != nil && n.typ == unix.S_IFDIR && n.key.mnt != dir.key.mnt
		t.nextID++
		t.total++
		t.byKey[n.key] = n
	}
	if n.lookups == 0 {
		t.byID[n.id] = n
	}
	n.lookups++
	t.pin(n)
	spare := fd
	if n.fd < 0 && t.open < t.hard {
		t.setOpen(n, fd)
		spare = -1
	}
	var dead []int
	if dir != nil && n != t.root && (n.parent != dir || n.name != name || n.stuck) {
		dead = t.rename(n, dir, name)
	}
	open := n.fd >= 0
	t.mu.Unlock()
	if spare >= 0 {
		unix.Close(spare)
	}
	closeAll(dead)
	if !open {
		t.put(n)
		t.forget(n.id, 1)
		return nil, unix.ENFILE
	}
	return n, nil
}

func (t *inodeTable) setOpen(n *inode, fd int) {
	n.fd = fd
	t.open++
	if n.parent != nil {
		e := entry{n.parent, n.name}
		if t.closed[e] == n {
			delete(t.closed, e)
		}
	}
}

// rename records where n was found last.
func (t *inodeTable) rename(n, dir *inode, name string) []int {
	old := n.parent
	if old != nil {
		if e := (entry{old, n.name}); t.closed[e] == n {
			delete(t.closed, e)
		}
	}
	if n.children > 0 && old != dir {
		t.cut(n, dir)
	}
	dir.children++
	n.parent, n.name, n.stuck = dir, name, false
	if n.fd < 0 {
		t.closed[entry{dir, name}] = n
	}
	if old == nil {
		return nil
	}
	old.children--
	return t.reap(old, nil)
}

// cut keeps the parents a tree when n becomes an entry of dir: what is known
// about an ancestor of dir that was once an entry of n is out of date.
func (t *inodeTable) cut(n, dir *inode) {
	for c := dir; c != nil; c = c.parent {
		if c.parent != n {
			continue
		}
		if e := (entry{n, c.name}); t.closed[e] == c {
			delete(t.closed, e)
		}
		t.unlink(c)
		c.parent, c.name, c.stuck = nil, "", true
		n.children--
		return
	}
}

// forget drops count of the client's references.
func (t *inodeTable) forget(id, count uint64) {
	t.mu.Lock()
	n := t.byID[id]
	if n == nil || n == t.root {
		t.mu.Unlock()
		return
	}
	n.lookups -= min(count, n.lookups)
	if n.lookups == 0 {
		delete(t.byID, id)
	}
	dead := t.reap(n, nil)
	t.mu.Unlock()
	closeAll(dead)
}

// reap removes n if nothing needs it any more, and then its parent likewise.
// It returns the descriptors to close.
func (t *inodeTable) reap(n *inode, dead []int) []int {
	for n != nil && n.lookups == 0 && n.pins == 0 && n.children == 0 {
		t.unlink(n)
		if t.byKey[n.key] == n {
			delete(t.byKey, n.key)
		}
		if n.fd >= 0 {
			dead = append(dead, n.fd)
			n.fd = -1
			t.open--
		}
		t.total--
		p := n.parent
		if p == nil {
			break
		}
		if e := (entry{p, n.name}); t.closed[e] == n {
			delete(t.closed, e)
		}
		n.parent = nil
		p.children--
		n = p
	}
	return dead
}

// clear drops all of the client's references.
func (t *inodeTable) clear() {
	t.mu.Lock()
	var dead []int
	for id, n := range t.byID {
		if n == t.root {
			continue
		}
		n.lookups = 0
		delete(t.byID, id)
		dead = t.reap(n, dead)
	}
	t.mu.Unlock()
	closeAll(dead)
}

// close closes the root, and with it the table.
func (t *inodeTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.root.fd >= 0 {
		unix.Close(t.root.fd)
		t.root.fd = -1
		delete(t.byID, t.root.id)
		t.open--
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
