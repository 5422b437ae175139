package cage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewProc opens /proc/self/fd for the file server, which reaches its files
// through it. It is that of a procfs instance of its own that shows the processes
// this one may trace, which is itself, and neither /proc/sys nor anything else of
// the host's. The instance comes to lie on /proc: this process must be in a mount
// namespace of its own, and goes away from there with everything else. (A mount
// that is nowhere would cost a grace period of RCU by itself.) The error says why
// the host's own took its place; the directory is nil if that failed too.
func NewProc() (*os.File, error) {
	lack := mountProc()
	dir, err := os.OpenFile("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return dir, lack
}

func mountProc() error {
	mount, err := privateProc()
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	err = unix.MoveMount(mount, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

func privateProc() (int, error) {
	fs, err := configureProc()
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsmount", err)
	}
	return mount, nil
}

// configureProc describes the instance, which a kernel before 5.8 refuses.
func configureProc() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	for _, option := range [][2]string{{"hidepid", "ptraceable"}, {"subset", "pid"}} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			unix.Close(fs)
			if errors.Is(err, unix.EINVAL) {
				err = fmt.Errorf("this kernel does not know %s=%s", option[0], option[1])
			}
			return -1, fmt.Errorf("procfs: %w", err)
		}
	}
	return fs, nil
}
