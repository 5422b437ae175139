package passthrough

import (
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	permBits    = 0o777
	specialBits = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX
)

// object is something to be created.
type object struct {
	typ   uint32 // S_IFMT bits
	mode  uint32 // permissions, after the umask
	owner fuse.Owner
	// created makes the entry, with the mode.
	create func(dir int, name string, mode uint32) error
}

// mode applies the umask as the kernel does: not where the directory has
// default ACLs.
func (f *FS) mode(dir *inode, mode, umask uint32) uint32 {
	if mode&umask&permBits == 0 || f.hasDefaultACL(dir) {
		return mode & 0o7777
	}
	return mode & 0o7777 &^ (umask & permBits)
}

// make creates an object and replies with it. The entry is made as this
// process, and then given to its owner; special mode bits are set after that,
// so that at no time a set-user-ID file belongs to anyone but its owner. If
// the owner cannot be set the entry is removed again.
func (f *FS) make(dir *inode, name string, o object, out *fuse.EntryOut) error {
	if f.isUnmapped(dir.key.mnt, o.owner.Uid, true, o.owner.Gid, true) {
		return unix.EOVERFLOW
	}
	first := o.mode
	if f.foreign(o.owner) {
		first &^= specialBits
	}
	if err := retry(func() error { return o.create(dir.fd, name, first) }); err != nil {
		return err
	}
	fd, err := openPath(dir.fd, name)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = statFD(fd, &st)
	if err == nil && (uint32(st.Mode)&unix.S_IFMT != o.typ || st.Mnt_id != dir.key.mnt || f.foreign(o.owner) && st.Uid != f.uid) {
		// Someone on the host has put something else there.
		err = unix.ESTALE
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	if err := f.give(dir, fd, &st, o.mode, o.owner); err != nil {
		f.undo(dir, name, &st)
		unix.Close(fd)
		return err
	}
	return f.enter(fd, dir, name, out)
}

// foreign reports whether an object of the owner needs a chown.
func (f *FS) foreign(o fuse.Owner) bool { return o.Uid != f.uid || o.Gid != f.gid }

// isUnmapped reports whether one of the ids is a mount's that may not be used,
// though this process could.
func (f *FS) isUnmapped(mount uint64, uid uint32, setUID bool, gid uint32, setGID bool) bool {
	u, ok := f.unmapped[mount]
	return ok && (setUID && u.UID && uid == f.uid || setGID && u.GID && gid == f.gid)
}

// give hands the new object fd over to its owner. A group that it inherited
// from its directory is kept.
func (f *FS) give(dir *inode, fd int, st *unix.Statx_t, mode uint32, o fuse.Owner) error {
	if !f.foreign(o) {
		return nil
	}
	uid, gid := owner(o.Uid, true), owner(o.Gid, true)
	inherited := st.Gid != f.gid
	if !inherited {
		var dst unix.Statx_t
		if err := statFD(dir.fd, &dst); err != nil {
			return err
		}
		inherited = dst.Mode&unix.S_ISGID != 0
	}
	if inherited {
		gid = keepID
	}
	if err := chown(fd, uid, gid); err != nil {
		if _, mapped := f.unmapped[st.Mnt_id]; mapped && err == unix.EINVAL {
			return unix.EOVERFLOW // as creat(2) has it, and not chown(2)
		}
		return err
	}
	special := mode & specialBits
	if special == 0 || uint32(st.Mode)&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return f.chmod(fd, uint32(st.Mode)&0o7777|special)
}

// undo removes an entry, if it is still the object with the attributes st.
func (f *FS) undo(dir *inode, name string, st *unix.Statx_t) {
	var now unix.Statx_t
	if statEntry(dir.fd, name, &now) != nil || keyOf(&now) != keyOf(st) {
		return
	}
	flags := 0
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(dir.fd, name, flags); err != nil {
		f.log.Warn("cannot remove an object whose owner could not be set", "error", err)
	}
}

// newEntry is what Mknod, Mkdir and Symlink have in common.
func (f *FS) newEntry(in *fuse.InHeader, name string, out *fuse.EntryOut, what func(dir *inode) (object, error)) fuse.Status {
	dir, err := f.changing(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	o, err := what(dir)
	if err != nil {
		return status(err)
	}
	o.owner = in.Owner
	return status(f.make(dir, name, o, out))
}

// Mknod creates a regular file, FIFO, socket or whiteout, or with
// Options.DeviceNodes a device.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.newEntry(&in.InHeader, name, out, func(dir *inode) (object, error) {
		o := object{typ: in.Mode & unix.S_IFMT, mode: f.mode(dir, in.Mode, in.Umask)}
		dev := uint64(0)
		switch o.typ {
		case 0:
			o.typ = unix.S_IFREG
		case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		case unix.S_IFCHR, unix.S_IFBLK:
			whiteout := o.typ == unix.S_IFCHR && in.Rdev == 0
			if !whiteout && !f.devices {
				return o, unix.EPERM
			}
			dev = decodeDev(in.Rdev)
		default:
			return o, unix.EINVAL
		}
		o.create = func(dir int, name string, mode uint32) error {
			return unix.Mknodat(dir, name, o.typ|mode, int(dev))
		}
		return o, nil
	})
}

// Mkdir creates a directory.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.newEntry(&in.InHeader, name, out, func(dir *inode) (object, error) {
		mode := f.mode(dir, in.Mode, in.Umask) & (permBits | unix.S_ISVTX)
		return object{typ: unix.S_IFDIR, mode: mode, create: unix.Mkdirat}, nil
	})
}

// Symlink creates a symbolic link. Its target is text and can be anything.
func (f *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.newEntry(in, name, out, func(*inode) (object, error) {
		switch {
		case target == "":
			return object{}, unix.ENOENT
		case len(target) >= pathMax:
			return object{}, unix.ENAMETOOLONG
		}
		create := func(dir int, name string, _ uint32) error { return unix.Symlinkat(target, dir, name) }
		return object{typ: unix.S_IFLNK, create: create}, nil
	})
}

// Link gives an inode another name.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, err := f.changing(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	n, err := f.inodes.get(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	if n.typ == unix.S_IFDIR {
		return fuse.EPERM
	}
	err = retry(func() error {
		return unix.Linkat(f.proc, strconv.Itoa(n.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
	if err != nil {
		return status(err)
	}
	return status(f.lookup(dir, name, out))
}

// Create makes and opens a regular file, or opens the one that is there.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, err := f.changing(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	mode := f.mode(dir, in.Mode, in.Umask)
	flags := openFlags(in.Flags)
	first := mode
	if f.foreign(in.Owner) {
		first &^= specialBits
	}
	fd, err := openBeneath(dir.fd, name, flags&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL, first)
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return status(f.createExisting(dir, name, in, out))
	}
	if err != nil {
		return status(err)
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return status(err)
	}
	if err := f.give(dir, fd, &st, mode, in.Owner); err != nil {
		f.undo(dir, name, &st)
		unix.Close(fd)
		return status(err)
	}
	return status(f.created(fd, dir, name, in, out))
}

// createExisting is Create without O_EXCL where the name exists: the client
// did not know. Anything but a regular file it is to look up first.
func (f *FS) createExisting(dir *inode, name string, in *fuse.CreateIn, out *fuse.CreateOut) error {
	if err := f.lookup(dir, name, &out.EntryOut); err != nil {
		return err
	}
	err := unix.ESTALE
	if out.Mode&unix.S_IFMT == unix.S_IFREG {
		n, gerr := f.inodes.get(out.NodeId)
		if gerr == nil {
			oerr := f.openFile(n, in.Flags, in.OpenFlags, &out.OpenOut)
			f.inodes.put(n)
			if oerr == nil {
				return nil
			}
			gerr = oerr
		}
		f.inodes.forget(out.NodeId, 1)
		return gerr
	}
	f.inodes.forget(out.NodeId, 1)
	return err
}

// created takes over fd, a new file that is open, and replies with its inode
// and handle. A nil dir is for a file without a name.
func (f *FS) created(fd int, dir *inode, name string, in *fuse.CreateIn, out *fuse.CreateOut) error {
	pathFD, err := f.reopen(fd, unix.O_PATH)
	var st unix.Statx_t
	if err == nil {
		if err = statFD(pathFD, &st); err != nil {
			unix.Close(pathFD)
		}
	}
	var n *inode
	if err == nil {
		n, err = f.inodes.add(pathFD, &st, dir, name)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	defer f.inodes.put(n)
	if err := f.addHandle(n, fd, in.Flags, &out.OpenOut); err != nil {
		f.inodes.forget(n.id, 1)
		return err
	}
	f.replyEntry(&out.EntryOut, n, &st)
	return nil
}

// Tmpfile makes and opens a file without a name. With O_EXCL it never gets
// one.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if f.readOnly {
		return fuse.EROFS
	}
	dir, err := f.inodes.getDir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(dir)
	if in.Flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fuse.EINVAL
	}
	mode := f.mode(dir, in.Mode, in.Umask)
	flags := openFlags(in.Flags)&^unix.O_TRUNC | unix.O_TMPFILE | int(in.Flags)&unix.O_EXCL
	fd, err := openBeneath(dir.fd, ".", flags, mode&permBits)
	if err != nil {
		return status(err)
	}
	var st unix.Statx_t
	err = statFD(fd, &st)
	if err == nil {
		err = f.give(dir, fd, &st, mode, in.Owner)
	}
	if err != nil {
		unix.Close(fd)
		return status(err)
	}
	return status(f.created(fd, nil, "", in, out))
}
