package passthrough

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// iovMax is IOV_MAX.
	iovMax = 1024

	// copyMax bounds the bytes that one COPY_FILE_RANGE moves: a request
	// should not occupy its worker for long, and the caller goes on.
	copyMax = 64 << 20
)

// openFlags selects the flags of open(2) that mean something to the host. Not
// O_DIRECT: the client's buffers have no alignment here. Not O_APPEND: a write
// says for itself whether it appends, as the client's page cache writes back
// through any descriptor at hand.
func openFlags(flags uint32) int {
	const pass = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME
	return int(flags) & pass
}

func writes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// Open opens a regular file. All other types are the client's own business,
// and opening them here could block or have effects on the host.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	return status(f.openFile(n, in.Flags, in.Mode, out))
}

func (f *FS) openFile(n *inode, flags, openFlag uint32, out *fuse.OpenOut) error {
	if f.readOnly && writes(flags) {
		return unix.EROFS
	}
	switch n.typ {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFLNK:
		return unix.ELOOP
	default:
		return unix.ENXIO
	}
	if flags&unix.O_TRUNC != 0 && openFlag&fuse.OPEN_KILL_SUIDGID != 0 {
		if err := f.dropPrivilegeBits(n.fd); err != nil {
			return err
		}
	}
	host := openFlags(flags)
	if f.readOnly {
		host |= unix.O_NOATIME
	}
	fd, err := f.reopen(n.fd, host)
	if err == unix.EPERM && host&unix.O_NOATIME != 0 {
		fd, err = f.reopen(n.fd, host&^unix.O_NOATIME)
	}
	if err == unix.EPERM && flags&unix.O_APPEND != 0 {
		// The file may be append-only (chattr +a).
		fd, err = f.reopen(n.fd, host|unix.O_APPEND)
	}
	if err != nil {
		return err
	}
	return f.addHandle(n, fd, flags, out)
}

// addHandle takes over fd and replies with a handle for it.
func (f *FS) addHandle(n *inode, fd int, flags uint32, out *fuse.OpenOut) error {
	h := &handle{
		node:     n,
		fd:       fd,
		writable: flags&unix.O_ACCMODE != unix.O_RDONLY,
		flush:    f.mounts.of(n.key.dev, fd).remote,
	}
	keep := f.unchanged(n, fd)
	id, err := f.handles.add(f, h)
	if err != nil {
		return err
	}
	*out = fuse.OpenOut{Fh: id}
	if keep {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	if !h.flush || !h.writable {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	return nil
}

// unchanged reports whether the contents are those of the last open, so that
// what the client has cached since then is good.
func (f *FS) unchanged(n *inode, fd int) bool {
	var st unix.Statx_t
	if statFD(fd, &st) != nil {
		return false
	}
	now := dataStamp{valid: true, mtime: st.Mtime, size: st.Size}
	f.inodes.mu.Lock()
	defer f.inodes.mu.Unlock()
	same := n.stamp == now
	n.stamp = now
	return same
}

// Read reads into buf.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, st := f.ReadInto(in, [][]byte{buf[:min(uint64(len(buf)), uint64(in.Size))]})
	if st != fuse.OK {
		return nil, st
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// ReadInto reads into dst, which may be memory that others change at the same
// time, and returns the number of bytes. Less than asked for is the end of the
// file.
func (f *FS) ReadInto(in *fuse.ReadIn, dst [][]byte) (int, fuse.Status) {
	h, err := f.handles.get(in.Fh, in.NodeId, false)
	if err != nil {
		return 0, status(err)
	}
	defer f.handles.put(f, h)
	if in.Offset > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	n, err := transfer(dst, in.Offset, func(iov [][]byte, off int64) (int, error) {
		return unix.Preadv(h.fd, iov, off)
	})
	if n > 0 {
		return n, fuse.OK
	}
	return 0, status(err)
}

// Write writes data.
func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return f.Writev(cancel, in, [][]byte{data})
}

// Writev writes data, which may be memory that others change at the same
// time.
func (f *FS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if f.readOnly {
		return 0, fuse.EROFS
	}
	h, err := f.handles.get(in.Fh, in.NodeId, false)
	if err != nil {
		return 0, status(err)
	}
	defer f.handles.put(f, h)
	switch {
	case !h.writable:
		return 0, fuse.EBADF
	case in.Offset > math.MaxInt64:
		return 0, fuse.Status(unix.EFBIG)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.dropPrivilegeBits(h.fd); err != nil {
			return 0, status(err)
		}
	}
	flags := 0
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		flags = unix.RWF_APPEND
	}
	n, err := transfer(data, in.Offset, func(iov [][]byte, off int64) (int, error) {
		if flags == 0 {
			return unix.Pwritev(h.fd, iov, off)
		}
		return unix.Pwritev2(h.fd, iov, off, flags)
	})
	if n > 0 || err == nil {
		return uint32(n), fuse.OK
	}
	return 0, status(err)
}

// transfer calls a vectored read or write until iov is done, an error occurs
// or nothing is moved any more. The number of bytes fits 32 bits.
func transfer(iov [][]byte, offset uint64, call func([][]byte, int64) (int, error)) (int, error) {
	total := 0
	for {
		for len(iov) > 0 && len(iov[0]) == 0 {
			iov = iov[1:]
		}
		if len(iov) == 0 {
			return total, nil
		}
		part := iov[:min(len(iov), iovMax)]
		n, err := call(part, int64(offset))
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return total, err
		}
		total += n
		offset += uint64(n)
		iov = advance(iov, n)
	}
}

// advance drops n bytes from the front of iov, which it leaves alone.
func advance(iov [][]byte, n int) [][]byte {
	for n > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if n == 0 {
		return iov
	}
	rest := make([][]byte, len(iov))
	copy(rest, iov)
	rest[0] = rest[0][n:]
	return rest
}

// Flush reports what close(2) would.
func (f *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, err := f.handles.get(in.Fh, in.NodeId, false)
	if err != nil {
		return status(err)
	}
	defer f.handles.put(f, h)
	if !h.flush {
		return fuse.OK
	}
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(fd))
}

// Release closes a file.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	f.handles.release(f, in.Fh, in.NodeId, false)
}

// Fsync writes a file back.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.sync(in, false)
}

func (f *FS) sync(in *fuse.FsyncIn, dir bool) fuse.Status {
	h, err := f.handles.get(in.Fh, in.NodeId, dir)
	if err != nil {
		return status(err)
	}
	defer f.handles.put(f, h)
	call := unix.Fsync
	if in.FsyncFlags&1 != 0 {
		call = unix.Fdatasync
	}
	return status(retry(func() error { return call(h.fd) }))
}

// Fallocate changes the space of a file. There is no word from the client
// whether set-user-ID bits are to go, so only for root they stay.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if f.readOnly {
		return fuse.EROFS
	}
	h, err := f.handles.get(in.Fh, in.NodeId, false)
	if err != nil {
		return status(err)
	}
	defer f.handles.put(f, h)
	switch {
	case !h.writable:
		return fuse.EBADF
	case in.Offset > math.MaxInt64 || in.Length > math.MaxInt64:
		return fuse.Status(unix.EFBIG)
	}
	if in.Uid != 0 {
		if err := f.dropPrivilegeBits(h.fd); err != nil {
			return status(err)
		}
	}
	return status(retry(func() error {
		return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
	}))
}

// Lseek finds data or holes. Positions are the client's.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, err := f.handles.get(in.Fh, in.NodeId, false)
	if err != nil {
		return status(err)
	}
	defer f.handles.put(f, h)
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	if in.Offset > math.MaxInt64 {
		return fuse.Status(unix.ENXIO)
	}
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// CopyFileRange copies between two open files.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if f.readOnly {
		return 0, fuse.EROFS
	}
	from, err := f.handles.get(in.FhIn, in.NodeId, false)
	if err != nil {
		return 0, status(err)
	}
	defer f.handles.put(f, from)
	to, err := f.handles.get(in.FhOut, in.NodeIdOut, false)
	if err != nil {
		return 0, status(err)
	}
	defer f.handles.put(f, to)
	switch {
	case !to.writable:
		return 0, fuse.EBADF
	case in.Flags != 0 || in.OffIn > math.MaxInt64:
		return 0, fuse.EINVAL
	case in.OffOut > math.MaxInt64:
		return 0, fuse.Status(unix.EFBIG)
	}
	if in.Uid != 0 {
		if err := f.dropPrivilegeBits(to.fd); err != nil {
			return 0, status(err)
		}
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	var n int
	err = retry(func() (err error) {
		n, err = unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, copyMax)), 0)
		return err
	})
	if err != nil {
		return 0, status(err)
	}
	return uint32(n), fuse.OK
}
