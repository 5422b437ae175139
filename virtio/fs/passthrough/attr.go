package passthrough

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attr converts st for the client. mount marks the directory that something
// is mounted on.
func (f *FS) attr(st *unix.Statx_t, mount bool) fuse.Attr {
	a := fuse.Attr{
		Ino:       f.mounts.ino(st),
		Size:      st.Size,
		Blocks:    st.Blocks,
		Atime:     uint64(st.Atime.Sec),
		Mtime:     uint64(st.Mtime.Sec),
		Ctime:     uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec,
		Mtimensec: st.Mtime.Nsec,
		Ctimensec: st.Ctime.Nsec,
		Mode:      uint32(st.Mode),
		Nlink:     st.Nlink,
		Owner:     fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:      encodeDev(st.Rdev_major, st.Rdev_minor),
		Blksize:   st.Blksize,
	}
	if mount {
		a.Flags = fuse.ATTR_SUBMOUNT
	}
	return a
}

// encodeDev is the 32-bit encoding of a device number in the FUSE protocol.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | (major&0xfff)<<8 | minor&^0xff<<12
}

func decodeDev(dev uint32) uint64 {
	return unix.Mkdev(dev>>8&0xfff, dev&0xff|dev>>12&^0xff)
}

func (f *FS) replyAttr(out *fuse.AttrOut, n *inode, fd int) error {
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return err
	}
	*out = fuse.AttrOut{Attr: f.attr(&st, n.mount)}
	out.SetTimeout(f.attrTimeout)
	return nil
}

// GetAttr is stat. A handle in the request names the same inode, so it adds
// nothing.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	return status(f.replyAttr(out, n, n.fd))
}

// Statx is statx.
func (f *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	const syncFlags = unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC
	var st unix.Statx_t
	err = retry(func() error {
		return unix.Statx(n.fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|int(in.SxFlags)&syncFlags, statMask, &st)
	})
	if err != nil {
		return status(err)
	}
	*out = fuse.StatxOut{}
	out.FromStatx(&st)
	out.Mask &= unix.STATX_BASIC_STATS | unix.STATX_BTIME
	out.Statx.Ino = f.mounts.ino(&st)
	out.SetTimeout(f.attrTimeout)
	return fuse.OK
}

// SetAttr changes size, owner, mode and times, in this order: a change of
// owner clears mode bits which the request may set.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if f.readOnly {
		return fuse.EROFS
	}
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	if err := f.setAttr(n, in); err != nil {
		return status(err)
	}
	return status(f.replyAttr(out, n, n.fd))
}

func (f *FS) setAttr(n *inode, in *fuse.SetAttrIn) error {
	if size, ok := in.GetSize(); ok {
		if err := f.truncate(n, in, size); err != nil {
			return err
		}
	}
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if setUID || setGID {
		if f.isUnmapped(n.key.mnt, uid, setUID, gid, setGID) {
			return unix.EINVAL
		}
		if err := chown(n.fd, owner(uid, setUID), owner(gid, setGID)); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if n.typ == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		if err := f.chmod(n.fd, mode); err != nil {
			return err
		}
	}
	return f.setTimes(n, in)
}

// owner is the argument of chown(2) for an optional id.
func owner(id uint32, set bool) int {
	if !set || id == ^uint32(0) {
		return keepID
	}
	return int(id)
}

func (f *FS) truncate(n *inode, in *fuse.SetAttrIn, size uint64) error {
	switch {
	case n.typ == unix.S_IFDIR:
		return unix.EISDIR
	case n.typ != unix.S_IFREG || int64(size) < 0:
		return unix.EINVAL
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		if err := f.dropPrivilegeBits(n.fd); err != nil {
			return err
		}
	}
	if fh, ok := in.GetFh(); ok {
		h, err := f.handles.get(fh, in.NodeId, false)
		if err != nil {
			return err
		}
		defer f.handles.put(f, h)
		if !h.writable {
			return unix.EINVAL
		}
		return retry(func() error { return unix.Ftruncate(h.fd, int64(size)) })
	}
	fd, err := f.reopen(n.fd, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return retry(func() error { return unix.Ftruncate(fd, int64(size)) })
}

func (f *FS) setTimes(n *inode, in *fuse.SetAttrIn) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	set := false
	for i, t := range []struct {
		valid, now uint32
		sec        uint64
		nsec       uint32
	}{
		{fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec},
		{fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec},
	} {
		switch {
		case in.Valid&t.valid == 0:
			continue
		case in.Valid&t.now != 0:
			ts[i].Nsec = unix.UTIME_NOW
		case t.nsec >= uint32(time.Second):
			return unix.EINVAL
		default:
			ts[i] = unix.Timespec{Sec: int64(t.sec), Nsec: int64(t.nsec)}
		}
		set = true
	}
	if !set {
		return nil
	}
	return retry(func() error {
		return unix.UtimesNanoAt(f.proc, strconv.Itoa(n.fd), ts, 0)
	})
}
