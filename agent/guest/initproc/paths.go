package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Paths of the root file system that is being built are resolved with
// RESOLVE_IN_ROOT: neither ".." nor a symbolic link leads out of it.

// openInRoot opens a path below root with O_PATH.
func openInRoot(root int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   uint64(flags | unix.O_PATH | unix.O_CLOEXEC),
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		// EAGAIN: a rename elsewhere may have confused the walk.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// mkdirInRoot opens a directory below root and creates what is missing of it.
func mkdirInRoot(root int, name string, mode uint32) (int, error) {
	fd, err := openInRoot(root, name, unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return -1, err
	}
	dir, err := mkdirInRoot(root, parent, mode)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, base, mode); err != nil && err != unix.EEXIST {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return openInRoot(root, name, unix.O_DIRECTORY)
}

// createInRoot opens a file of any type below root; a missing one is created,
// empty, with its directories.
func createInRoot(root int, name string) (int, error) {
	fd, err := openInRoot(root, name, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return -1, err
	}
	dir, err := mkdirInRoot(root, parent, 0o755)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	file, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil && err != unix.EEXIST {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	if err == nil {
		unix.Close(file)
	}
	return openInRoot(root, name, 0)
}

// procFD is the path of an open file descriptor, for calls that want a path.
// The agent's procfs must be visible.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// sysctlPath is the file of a sysctl below /proc/sys. As with sysctl(8), the
// first separator tells whether dots or slashes separate the parts.
func sysctlPath(key string) (string, error) {
	name := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || part == "." || part == ".." || strings.IndexByte(part, 0) >= 0 {
			return "", Invalid("linux.sysctl: invalid name %q", key)
		}
	}
	return name, nil
}

// writeSysctls sets sysctls through an open /proc/sys. Those of the network are
// in force in the container's network namespace, where its sockets are; that
// the guest's kernel lacks one is a warning.
func writeSysctls(sys int, values map[string]string) (warnings []string, err error) {
	for key, value := range values {
		name, err := sysctlPath(key)
		if err != nil {
			return nil, err
		}
		err = writeSysctl(sys, name, value)
		switch {
		case err == nil:
		case strings.HasPrefix(name, "net/"):
			warnings = append(warnings, fmt.Sprintf("sysctl %s=%s: %v: in force for the sockets, not shown in the guest", key, value, err))
		default:
			return nil, fmt.Errorf("sysctl %s=%s: %w", key, value, err)
		}
	}
	return warnings, nil
}

func writeSysctl(sys int, name, value string) error {
	fd, err := unix.Openat2(sys, name, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
