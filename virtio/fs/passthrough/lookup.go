package passthrough

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// pathMax is PATH_MAX: the longest target of a symbolic link, with its NUL.
const pathMax = 4096

// Lookup finds an entry of a directory and takes a reference for the client.
func (f *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if err := checkName(name); err != nil {
		return status(err)
	}
	dir, err := f.inodes.getDir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	err = f.lookup(dir, name, out)
	if err == unix.ENOENT && f.negativeTimeout > 0 {
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(f.negativeTimeout)
		return fuse.OK
	}
	return status(err)
}

func (f *FS) lookup(dir *inode, name string, out *fuse.EntryOut) error {
	fd, err := openPath(dir.fd, name)
	if err != nil {
		return err
	}
	return f.enter(fd, dir, name, out)
}

// enter takes over fd, which names dir's entry name, and replies with it.
func (f *FS) enter(fd int, dir *inode, name string, out *fuse.EntryOut) error {
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	n, err := f.inodes.add(fd, &st, dir, name)
	if err != nil {
		return err
	}
	f.replyEntry(out, n, &st)
	f.inodes.put(n)
	return nil
}

func (f *FS) replyEntry(out *fuse.EntryOut, n *inode, st *unix.Statx_t) {
	*out = fuse.EntryOut{NodeId: n.id, Attr: f.attr(st, n.mount)}
	setTimeouts(out, f.entryTimeout, f.attrTimeout)
}

func setTimeouts(out *fuse.EntryOut, entry, attr time.Duration) {
	out.SetEntryTimeout(entry)
	out.SetAttrTimeout(attr)
}

// Forget drops references that the client got from Lookup and its like.
func (f *FS) Forget(node, count uint64) {
	if node == RootAlias {
		return
	}
	f.inodes.forget(node, count)
}

// Readlink returns the target of a symbolic link, which means nothing here.
func (f *FS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	defer f.inodes.put(n)
	if n.typ != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	buf := make([]byte, pathMax)
	var size int
	err = retry(func() (err error) {
		size, err = unix.Readlinkat(n.fd, "", buf)
		return err
	})
	if err != nil {
		return nil, status(err)
	}
	return buf[:size], fuse.OK
}

// Unlink removes an entry which is not a directory.
func (f *FS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in, name, 0)
}

// Rmdir removes an empty directory.
func (f *FS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in, name, unix.AT_REMOVEDIR)
}

// changing returns the directory of an entry that is about to be made, replaced or
// removed. The caller puts it back.
func (f *FS) changing(nodeID uint64, name string) (*inode, error) {
	if f.readOnly {
		return nil, unix.EROFS
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir, err := f.inodes.getDir(nodeID)
	if err != nil {
		return nil, err
	}
	f.inodes.retain(dir, name)
	return dir, nil
}

func (f *FS) remove(in *fuse.InHeader, name string, flags int) fuse.Status {
	dir, err := f.changing(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	return status(retry(func() error { return unix.Unlinkat(dir.fd, name, flags) }))
}

// Rename moves an entry. Flags are those of renameat2.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if in.Flags&^uint32(known) != 0 {
		return fuse.EINVAL
	}
	from, err := f.changing(in.NodeId, oldName)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(from)
	to, err := f.changing(in.Newdir, newName)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(to)
	return status(retry(func() error {
		return unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags))
	}))
}
