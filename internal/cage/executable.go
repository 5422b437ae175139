package cage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenExecutable opens this program on a read-only mount of its own, which is
// mounted nowhere: a process that was executed from there cannot write to the
// program, not even through its /proc/self/exe.
func OpenExecutable() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the program's mount cannot be copied: %w", os.NewSyscallError("open_tree", err))
	}
	f := os.NewFile(uintptr(fd), "/proc/self/exe")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("the program's mount cannot be made read-only: %w", os.NewSyscallError("mount_setattr", err)), f.Close())
	}
	return f, nil
}

// executableLack is why the program of this process could be written to through
// /proc/self/exe; nil: it could not.
func executableLack() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return errors.New("the program is not on a read-only mount")
	}
	return nil
}
