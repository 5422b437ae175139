package passthrough

import (
	"errors"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// resolve keeps a single component from being anything but an entry of
	// the directory it is looked up in. Mount points inside of the share are
	// crossed: volumes are bind mounted there.
	resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS

	statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

	// keepID leaves an owner as it is in chown.
	keepID = -1
)

// status is the FUSE status of a failed system call.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno unix.Errno
	if errors.As(err, &errno) && errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// retry repeats a system call that a signal interrupted: the Go runtime sends
// signals to its own threads, which the guest must not see.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// openBeneath opens the entry name of directory dir, never following a
// symbolic link.
func openBeneath(dir int, name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOCTTY),
		Mode:    uint64(mode),
		Resolve: resolve,
	}
	if flags&unix.O_PATH != 0 {
		how.Flags &^= unix.O_NOCTTY
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat2(dir, name, &how)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// openPath opens a descriptor which only names the entry.
func openPath(dir int, name string) (int, error) {
	return openBeneath(dir, name, unix.O_PATH, 0)
}

// statFD is statx of an open descriptor, O_PATH or not.
func statFD(fd int, st *unix.Statx_t) error {
	return retry(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, statMask, st)
	})
}

// statEntry is statx of a directory entry.
func statEntry(dir int, name string, st *unix.Statx_t) error {
	return retry(func() error {
		return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, st)
	})
}

// reopen opens the very file that fd names, through /proc/self/fd: no path is
// walked, so nothing can be swapped on the way.
func (f *FS) reopen(fd, flags int) (int, error) {
	nfd := -1
	err := retry(func() (err error) {
		nfd, err = unix.Openat(f.proc, strconv.Itoa(fd), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	return nfd, nil
}

// chmod changes the mode of the file that fd names.
func (f *FS) chmod(fd int, mode uint32) error {
	return retry(func() error {
		return unix.Fchmodat(f.proc, strconv.Itoa(fd), mode&0o7777, 0)
	})
}

// chown changes the owner of the file that fd names.
func chown(fd, uid, gid int) error {
	return retry(func() error {
		return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	})
}

// dropPrivilegeBits clears the set-user-ID bit, and the set-group-ID bit of
// an executable file, before its contents change. The kernel does so for a
// writer without CAP_FSETID, which this process has. (The file capabilities
// are removed by the kernel for every writer.)
func (f *FS) dropPrivilegeBits(fd int) error {
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return err
	}
	if uint32(st.Mode)&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	drop := uint32(st.Mode) & unix.S_ISUID
	if st.Mode&unix.S_IXGRP != 0 {
		drop |= uint32(st.Mode) & unix.S_ISGID
	}
	if drop == 0 {
		return nil
	}
	return f.chmod(fd, uint32(st.Mode)&^drop)
}
