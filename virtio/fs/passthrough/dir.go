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

	// maxAhead bounds what is kept for later requests, of all directories.
	maxAhead = 1 << 20
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
func (f *FS) readDir(in *fuse.ReadIn, chunk int, add func(*inode, fuse.DirEntry) bool) fuse.Status {
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
	if err := h.seek(int64(in.Offset)); err != nil {
		return status(err)
	}
	pooled := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(pooled)
	buf := *pooled
	have := copy(buf, h.ahead)
	defer func() { h.keep(f, buf[:have]) }()
	device := f.mounts.index(h.node.key.dev)
	for next := 0; ; {
		if next == have {
			n, err := h.read(buf[have:min(have+chunk, len(buf))])
			if err != nil || n == 0 {
				if next > 0 {
					err = nil
				}
				return status(err)
			}
			have += n
		}
		e, reclen, ok := parseDirent(buf[next:have])
		if !ok {
			return fuse.EIO
		}
		if e.Name == ".." && h.node == f.inodes.root {
			// What is above the share is nobody's business.
			e.Ino = h.node.key.ino
		}
		e.Ino = mapIno(device, e.Ino)
		if !add(h.node, e) {
			if next == 0 {
				return fuse.EINVAL
			}
			return fuse.OK
		}
		next += reclen
	}
}

// seek makes ahead the entries at the given position, as far as they have been
// read already. The directory itself seeks only if they have not, as not every
// file system does that well: 9p forgets what it has read ahead.
func (h *handle) seek(pos int64) error {
	for rest, at := h.ahead, h.aheadAt; pos != 0; {
		if at == pos {
			h.ahead, h.aheadAt = rest, pos
			return nil
		}
		next, reclen, ok := parseDirentHeader(rest)
		if !ok {
			break
		}
		rest, at = rest[reclen:], next
	}
	h.ahead, h.aheadAt = nil, pos
	if pos == h.pos && pos != 0 {
		return nil
	}
	if _, err := unix.Seek(h.fd, pos, unix.SEEK_SET); err != nil {
		h.pos = -1
		return err
	}
	h.pos = pos
	return nil
}

// read gets the next entries of the directory.
func (h *handle) read(buf []byte) (n int, err error) {
	err = retry(func() (err error) {
		n, err = unix.Getdents(h.fd, buf)
		return err
	})
	for rest := buf[:max(n, 0)]; len(rest) > 0; {
		next, reclen, ok := parseDirentHeader(rest)
		if !ok {
			break
		}
		rest, h.pos = rest[reclen:], next
	}
	return n, err
}

// keep makes entries what is ahead of the position of the request: the client
// asks again for what it had no room for. Where all directories together have
// too much, the next request seeks.
func (h *handle) keep(f *FS, entries []byte) {
	h.ahead = nil
	if f.ahead.Add(int64(len(entries)-h.kept)) <= maxAhead {
		h.kept = len(entries)
		h.ahead = bytes.Clone(entries)
	} else {
		f.ahead.Add(-int64(len(entries)))
		h.kept = 0
	}
}

// parseDirentHeader reads where the entry after a struct linux_dirent64 is, in
// the directory and in b.
func parseDirentHeader(b []byte) (next int64, reclen int, ok bool) {
	if len(b) < direntHeader {
		return 0, 0, false
	}
	reclen = int(binary.NativeEndian.Uint16(b[16:]))
	return int64(binary.NativeEndian.Uint64(b[8:])), reclen, reclen >= direntHeader && reclen <= len(b)
}

// parseDirent reads one struct linux_dirent64, and tells its length.
func parseDirent(b []byte) (e fuse.DirEntry, reclen int, ok bool) {
	next, reclen, ok := parseDirentHeader(b)
	if !ok {
		return e, 0, false
	}
	name := b[direntHeader:reclen]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  uint64(next),
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
