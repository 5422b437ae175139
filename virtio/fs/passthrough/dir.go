package passthrough

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// direntHeader is the size of struct linux_dirent64 without the name.
	direntHeader = 19

	// minDirents holds the longest entry, and maxDirents bounds the memory
	// for one request.
	minDirents = 1 << 10
	maxDirents = 64 << 10
)

var direntBuffers = sync.Pool{New: func() any { b := make([]byte, maxDirents); return &b }}

// OpenDir opens a directory.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := f.inodes.getDir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	fd, err := openBeneath(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return status(err)
	}
	id, err := f.handles.add(f, &handle{node: n, fd: fd, dir: true})
	if err != nil {
		return status(err)
	}
	*out = fuse.OpenOut{Fh: id}
	return fuse.OK
}

// ReadDir lists a directory from the position in the request, which is one
// the client got with an earlier entry, or zero.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	size := min(max(int64(in.Size), minDirents), maxDirents)
	return f.readDir(in, int(size), func(_ *inode, e fuse.DirEntry) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus is ReadDir with a Lookup of each entry.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	size := min(max(int64(in.Size)/4, minDirents), maxDirents)
	return f.readDir(in, int(size), func(dir *inode, e fuse.DirEntry) bool {
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return false
		}
		// Without a node id the client looks the entry up when it needs to.
		if e.Name != "." && e.Name != ".." && f.lookup(dir, e.Name, eo) != nil {
			*eo = fuse.EntryOut{}
		}
		return true
	})
}

// readDir calls add for the entries at in.Offset until it returns false.
func (f *FS) readDir(in *fuse.ReadIn, size int, add func(*inode, fuse.DirEntry) bool) fuse.Status {
	h, err := f.handles.get(in.Fh, in.NodeId, true)
	if err != nil {
		return status(err)
	}
	defer f.handles.put(f, h)
	if in.Offset > math.MaxInt64 {
		return fuse.EINVAL
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if off := int64(in.Offset); off != h.pos || off == 0 {
		if _, err := unix.Seek(h.fd, off, unix.SEEK_SET); err != nil {
			return status(err)
		}
		h.pos = off
	}
	pooled := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(pooled)
	buf := (*pooled)[:size]
	device := f.mounts.index(h.node.key.dev)
	added := false
	for {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Getdents(h.fd, buf)
			return err
		})
		if err != nil || n == 0 {
			if added {
				err = nil
			}
			return status(err)
		}
		for rest := buf[:n]; len(rest) > 0; {
			e, reclen, ok := parseDirent(rest)
			if !ok {
				return fuse.EIO
			}
			rest = rest[reclen:]
			if e.Name == ".." && h.node == f.inodes.root {
				// What is above the share is nobody's business.
				e.Ino = h.node.key.ino
			}
			e.Ino = mapIno(device, e.Ino)
			next := int64(e.Off)
			if !add(h.node, e) {
				// The kernel is further on than the client.
				if _, err := unix.Seek(h.fd, h.pos, unix.SEEK_SET); err != nil {
					h.pos = -1
				}
				if !added {
					return fuse.EINVAL
				}
				return fuse.OK
			}
			h.pos = next
			added = true
		}
	}
}

// parseDirent reads one struct linux_dirent64, and tells its length.
func parseDirent(b []byte) (e fuse.DirEntry, reclen int, ok bool) {
	if len(b) < direntHeader {
		return e, 0, false
	}
	reclen = int(binary.NativeEndian.Uint16(b[16:]))
	if reclen < direntHeader || reclen > len(b) {
		return e, 0, false
	}
	name := b[direntHeader:reclen]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  binary.NativeEndian.Uint64(b[8:]),
		Mode: uint32(b[18]) << 12,
		Name: string(name),
	}, reclen, true
}

// ReleaseDir closes a directory.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	f.handles.release(f, in.Fh, in.NodeId, true)
}

// FsyncDir writes a directory back.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.sync(in, true)
}
