package initproc

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openLower opens what a tmpfs on the directory target takes over: that, or what
// the host has put in its place.
func openLower(target int, name string) (int, error) {
	fd, err := unix.Openat2(target, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// copyUp fills a fresh tmpfs with what it hides: lower is the directory under
// the mount, upper the mount's root, which has its owner and mode.
func copyUp(lower, upper int) error {
	source, err := os.Open(procFD(lower))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Open(procFD(upper))
	if err != nil {
		return err
	}
	defer target.Close()
	return copyDir(int(source.Fd()), int(target.Fd()))
}

func copyDir(source, target int) error {
	list, err := unix.Openat(source, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	dir := os.NewFile(uintptr(list), "lower")
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(source, target, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyEntry(source, target int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(source, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(target, name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		from, err := unix.Openat(source, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		defer unix.Close(from)
		to, err := unix.Openat(target, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		defer unix.Close(to)
		return errors.Join(
			copyDir(from, to),
			os.NewSyscallError("fchown", unix.Fchown(to, int(st.Uid), int(st.Gid))),
			os.NewSyscallError("fchmod", unix.Fchmod(to, st.Mode&0o7777)))
	case unix.S_IFLNK:
		buf := make([]byte, 4096)
		n, err := unix.Readlinkat(source, name, buf)
		if err != nil {
			return os.NewSyscallError("readlinkat", err)
		}
		if err := unix.Symlinkat(string(buf[:n]), target, name); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
	case unix.S_IFREG:
		return copyRegular(source, target, name, &st)
	default:
		if err := unix.Mknodat(target, name, st.Mode, int(st.Rdev)); err != nil {
			return os.NewSyscallError("mknodat", err)
		}
	}
	if err := unix.Fchownat(target, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	return nil
}

func copyRegular(source, target int, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat(source, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	from := os.NewFile(uintptr(fd), name)
	defer from.Close()
	fd, err = unix.Openat(target, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	to := os.NewFile(uintptr(fd), name)
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// After the owner: chown drops the set-id bits.
	return unix.Fchmod(int(to.Fd()), st.Mode&0o7777)
}
