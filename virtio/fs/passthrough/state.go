package passthrough

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A session that is to go on in another process is saved as what the client
// knows: node ids with the paths that lead to the objects, and handles with
// their flags. In the other process the paths are opened beneath its root, which
// may be another copy of the same files.

// savedFlags are the flags of open(2) that a handle keeps.
const savedFlags = unix.O_ACCMODE | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME | unix.O_APPEND

// savedInode is an inode that the client knows.
type savedInode struct {
	id, lookups uint64
	typ         uint32
	mount       bool
	size        uint64 // of a regular file
	// path leads to it from the root; empty for one that no name leads to.
	path string
}

// savedHandle is what the client has open.
type savedHandle struct {
	id, node uint64
	dir      bool
	flags    int
}

// session is all that a client knows.
type session struct {
	nextInode, nextHandle uint64
	rootLookups           uint64
	inodes                []savedInode // without the root
	handles               []savedHandle
}

// ErrUnsaved says that a session has what cannot be saved.
var ErrUnsaved = errors.New("cannot be saved")

// Save describes what the client knows, between two requests. An open file that
// no name leads to any more, so one that was deleted, is ErrUnsaved.
func (f *FS) Save() ([]byte, error) {
	root, err := f.pathOf(f.inodes.root.fd)
	if err != nil {
		return nil, err
	}
	s := &session{}
	opened := make(map[*inode]bool)
	f.handles.mu.Lock()
	s.nextHandle = f.handles.nextID
	for id, h := range f.handles.byID {
		flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
		if err != nil {
			f.handles.mu.Unlock()
			return nil, fmt.Errorf("flags of an open file: %w", err)
		}
		s.handles = append(s.handles, savedHandle{id: id, node: h.node.id, dir: h.dir, flags: flags & savedFlags})
		opened[h.node] = true
	}
	f.handles.mu.Unlock()
	slices.SortFunc(s.handles, func(a, b savedHandle) int { return cmp.Compare(a.id, b.id) })

	t := f.inodes
	t.mu.Lock()
	defer t.mu.Unlock()
	s.nextInode, s.rootLookups = t.nextID, t.root.lookups
	list := make([]*inode, 0, len(t.byID)+len(opened))
	for _, n := range t.byID {
		list = append(list, n)
	}
	for n := range opened { // one that was forgotten and is open
		if t.byID[n.id] != n {
			list = append(list, n)
		}
	}
	for _, n := range list {
		if n == t.root {
			continue
		}
		saved := savedInode{id: n.id, lookups: n.lookups, typ: n.typ, mount: n.mount}
		saved.path, saved.size, err = f.findPath(n, root)
		if err != nil && opened[n] {
			return nil, err
		}
		s.inodes = append(s.inodes, saved)
	}
	slices.SortFunc(s.inodes, func(a, b savedInode) int { return cmp.Compare(a.id, b.id) })
	return s.encode(), nil
}

// pathOf is where the kernel has a descriptor's object.
func (f *FS) pathOf(fd int) (string, error) {
	buf := make([]byte, 2*pathMax)
	n, err := unix.Readlinkat(f.proc, strconv.Itoa(fd), buf)
	if err != nil {
		return "", fmt.Errorf("path of an open file: %w", err)
	}
	return string(buf[:n]), nil
}

// findPath is the path from the root that leads to n, and n's size. The caller
// holds the table's lock.
func (f *FS) findPath(n *inode, root string) (string, uint64, error) {
	name := ""
	switch {
	case n.fd >= 0:
		full, err := f.pathOf(n.fd)
		if err != nil {
			return "", 0, err
		}
		rest, ok := strings.CutPrefix(full, strings.TrimSuffix(root, "/")+"/")
		if !ok {
			return "", 0, fmt.Errorf("%w: %q is open, and is not in the share any more", ErrUnsaved, full)
		}
		name = rest
	case n.parent == nil:
		return "", 0, fmt.Errorf("%w: a file without a name is open", ErrUnsaved)
	default:
		name = n.name
		if n.parent != f.inodes.root {
			dir, _, err := f.findPath(n.parent, root)
			if err != nil {
				return "", 0, err
			}
			name = dir + "/" + name
		}
	}
	var st unix.Statx_t
	fd, err := openPath(f.inodes.root.fd, name)
	if err == nil {
		err = statFD(fd, &st)
		unix.Close(fd)
	}
	if err != nil || !n.is(&st) {
		return "", 0, fmt.Errorf("%w: %q is open and deleted, or was moved", ErrUnsaved, "/"+strings.TrimSuffix(name, " (deleted)"))
	}
	return name, st.Size, nil
}

// Restore has the client of a saved session go on with this file system, which
// has had no client yet. Open files have to be where they were, of the same type
// and size; other objects that are gone are stale to the client.
func (f *FS) Restore(b []byte) error {
	s, err := decodeSession(b, f.inodes.max, f.handles.max)
	if err != nil {
		return err
	}
	if err := f.restore(s); err != nil {
		f.Clear()
		return err
	}
	return nil
}

func (f *FS) restore(s *session) error {
	t := f.inodes
	if t.total != 1 || f.handles.total != 0 {
		return errors.New("the share is in use")
	}
	opened := make(map[uint64]bool)
	for _, h := range s.handles {
		opened[h.node] = true
	}
	t.root.lookups = s.rootLookups
	// Directories come before what is in them.
	order := slices.Clone(s.inodes)
	slices.SortStableFunc(order, func(a, b savedInode) int { return cmp.Compare(a.path, b.path) })
	byPath := map[string]*inode{".": t.root}
	nodes := map[uint64]*inode{t.root.id: t.root}
	for _, saved := range order {
		n, err := f.restoreInode(saved, byPath, opened[saved.id])
		if err != nil {
			return err
		}
		nodes[saved.id] = n
	}
	t.nextID = s.nextInode
	// A directory's descriptor is of use for closing those of its entries, so
	// those come first.
	t.mu.Lock()
	for _, saved := range slices.Backward(order) {
		t.setIdle(nodes[saved.id])
	}
	t.mu.Unlock()
	for _, h := range s.handles {
		if err := f.restoreHandle(h, nodes[h.node]); err != nil {
			return err
		}
	}
	f.handles.nextID = s.nextHandle
	return nil
}

// restoreInode makes an inode of what its path leads to now.
func (f *FS) restoreInode(saved savedInode, byPath map[string]*inode, opened bool) (*inode, error) {
	t := f.inodes
	n := &inode{id: saved.id, fd: -1, lookups: saved.lookups, typ: saved.typ, mount: saved.mount, stuck: true}
	fd, err := -1, error(unix.ESTALE)
	var st unix.Statx_t
	if saved.path != "" {
		if fd, err = openPath(t.root.fd, saved.path); err == nil {
			err = statFD(fd, &st)
		}
	}
	switch {
	case err != nil:
	case uint32(st.Mode)&unix.S_IFMT != saved.typ:
		err = errors.New("is of another type now")
	case opened && saved.typ == unix.S_IFREG && st.Size != saved.size:
		err = fmt.Errorf("has %d bytes now, and had %d", st.Size, saved.size)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.open >= t.hard {
		err = unix.ENFILE
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		if opened {
			return nil, fmt.Errorf("the open file %q: %w", "/"+saved.path, err)
		}
	}
	t.total++
	if n.lookups > 0 {
		t.byID[n.id] = n
	}
	if err != nil {
		return n, nil // ESTALE: the client looks it up anew
	}
	n.identify(&st)
	if t.byKey[n.key] == nil {
		t.byKey[n.key] = n
	}
	t.setOpen(n, fd)
	byPath[saved.path] = n
	if dir := byPath[path.Dir(saved.path)]; dir != nil {
		n.stuck = false
		dir.children++
		n.parent, n.name = dir, path.Base(saved.path)
		if !opened && t.open > t.soft {
			unix.Close(fd)
			n.fd = -1
			t.open--
			t.closed[entry{n.parent, n.name}] = n
		}
	}
	return n, nil
}

func (f *FS) restoreHandle(h savedHandle, n *inode) error {
	want := uint32(unix.S_IFREG)
	if h.dir {
		want = unix.S_IFDIR
	}
	if n == nil || n.typ != want || n.fd < 0 {
		return errors.New("an open file without its inode")
	}
	writable := h.flags&unix.O_ACCMODE != unix.O_RDONLY
	if f.readOnly && writable {
		return errors.New("a file is open for writing, and the share is read-only now")
	}
	var fd int
	var err error
	if h.dir {
		fd, err = openBeneath(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	} else {
		fd, err = f.reopen(n.fd, h.flags)
		if err == unix.EPERM && h.flags&unix.O_NOATIME != 0 {
			fd, err = f.reopen(n.fd, h.flags&^unix.O_NOATIME)
		}
	}
	if err != nil {
		return fmt.Errorf("open %q again: %w", n.name, err)
	}
	open := &handle{node: n, fd: fd, dir: h.dir, writable: writable, pos: -1}
	if !h.dir {
		open.flush = f.mounts.of(n.key.dev, fd).remote
	}
	t := f.handles
	t.mu.Lock()
	t.total++
	t.byID[h.id] = open
	t.mu.Unlock()
	f.inodes.hold(n)
	return nil
}

// isRoot tells whether an id is the root's.
func isRoot(id uint64) bool { return id == fuse.FUSE_ROOT_ID || id == RootAlias }
