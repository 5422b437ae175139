package initproc

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudoterminal in the container's devpts, of which the
// calling process becomes the session leader, and returns its master.
func openTerminal(uid uint32, cfg *Config) (master int, err error) {
	master, err = unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a terminal: %w", &os.PathError{Op: "open", Path: "/dev/pts/ptmx", Err: err})
	}
	slave, err := slaveOf(master, uid, cfg)
	if err != nil {
		unix.Close(master)
		return -1, fmt.Errorf("open a terminal: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			unix.Close(master)
			return -1, os.NewSyscallError("dup3", err)
		}
	}
	unix.Close(slave)
	return master, nil
}

func slaveOf(master int, uid uint32, cfg *Config) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("unlock terminal", err)
	}
	slave, err := ioctlOpenPeer(master, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open terminal", err)
	}
	if cfg.Width != 0 && cfg.Height != 0 {
		size := unix.Winsize{Col: cfg.Width, Row: cfg.Height}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
			return -1, os.NewSyscallError("set terminal size", err)
		}
	}
	if cfg.PlainNewlines {
		if err := clearONLCR(slave); err != nil {
			return -1, err
		}
	}
	if err := unix.Fchown(slave, int(uid), -1); err != nil {
		return -1, os.NewSyscallError("chown terminal", err)
	}
	return slave, nil
}

func clearONLCR(terminal int) error {
	settings, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		return os.NewSyscallError("tcgetattr", err)
	}
	settings.Oflag &^= unix.ONLCR
	return os.NewSyscallError("tcsetattr", unix.IoctlSetTermios(terminal, unix.TCSETS, settings))
}

func ioctlOpenPeer(master, flags int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, uintptr(flags))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// bindConsole makes the terminal of the container's first process its
// /dev/console.
func bindConsole(master int) error {
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("terminal number", err)
	}
	fd, err := unix.Open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		fd, err = unix.Open("/dev/console", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: "/dev/console", Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Mount("/dev/pts/"+strconv.Itoa(n), "/dev/console", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind terminal to /dev/console: %w", err)
	}
	return nil
}

// controlTerminal makes standard input the controlling terminal of a new
// session.
func controlTerminal() error {
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("set controlling terminal: %w", err)
	}
	return nil
}
