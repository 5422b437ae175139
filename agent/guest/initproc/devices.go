package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are those the specification supplies to every container.
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

var devSymlinks = []struct{ target, name string }{
	{"/proc/self/fd", "fd"},
	{"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"},
}

// ownsDev tells whether /dev is the container's to fill: not if it comes from
// the host.
func (r *rootfs) ownsDev() bool {
	for i := range r.spec.Mounts {
		if _, bind := r.binds[i]; bind && path.Clean("/"+r.spec.Mounts[i].Destination) == "/dev" {
			return false
		}
	}
	return true
}

// deviceMode is the file type and mode of a device node.
func deviceMode(d *specs.LinuxDevice) (uint32, error) {
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(*d.FileMode) & 0o7777
	}
	switch d.Type {
	case "c", "u":
		return unix.S_IFCHR | mode, nil
	case "b":
		return unix.S_IFBLK | mode, nil
	case "p":
		return unix.S_IFIFO | mode, nil
	}
	return 0, Invalid("linux.devices: %s: unknown type %q", d.Path, d.Type)
}

// makeDevices fills /dev: default devices, those of the configuration, ptmx
// and the symbolic links.
func (r *rootfs) makeDevices() error {
	for i := range defaultDevices {
		if r.lists(defaultDevices[i].Path) {
			continue // with an owner and a mode of its own, maybe
		}
		if err := r.makeDevice(&defaultDevices[i]); err != nil {
			return fmt.Errorf("device %s: %w", defaultDevices[i].Path, err)
		}
	}
	if r.spec.Linux != nil {
		for i := range r.spec.Linux.Devices {
			d := &r.spec.Linux.Devices[i]
			if err := deviceExists(d); err != nil {
				return err
			}
			if err := r.makeDevice(d); err != nil {
				return fmt.Errorf("device %s: %w", d.Path, err)
			}
		}
	}
	dev, err := mkdirInRoot(r.root, "/dev", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for _, link := range devSymlinks {
		if err := unix.Symlinkat(link.target, dev, link.name); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: "/dev/" + link.name, Err: err}
		}
	}
	if _, err := openInRoot(r.root, "/dev/pts/ptmx", 0); err == nil {
		if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlink", Path: "/dev/ptmx", Err: err}
		}
		if err := unix.Symlinkat("pts/ptmx", dev, "ptmx"); err != nil {
			return &os.PathError{Op: "symlink", Path: "/dev/ptmx", Err: err}
		}
	}
	return nil
}

// lists tells whether the configuration has a device with this path.
func (r *rootfs) lists(name string) bool {
	return r.spec.Linux != nil && slices.ContainsFunc(r.spec.Linux.Devices, func(d specs.LinuxDevice) bool {
		return path.Clean("/"+d.Path) == name
	})
}

// deviceExists refuses a node whose device the guest's kernel does not have:
// it could only ever fail to open.
func deviceExists(d *specs.LinuxDevice) error {
	class := "char"
	switch d.Type {
	case "p":
		return nil
	case "b":
		class = "block"
	}
	name := fmt.Sprintf("/sys/dev/%s/%d:%d", class, d.Major, d.Minor)
	if err := unix.Access(name, unix.F_OK); err != nil {
		return Unsupported("linux.devices: %s: the guest has no %s device %d:%d", d.Path, class, d.Major, d.Minor)
	}
	return nil
}

// makeDevice makes a node, or binds the agent's where the file system does not
// let it.
func (r *rootfs) makeDevice(d *specs.LinuxDevice) error {
	mode, err := deviceMode(d)
	if err != nil {
		return err
	}
	name := path.Clean("/" + d.Path)
	dir, err := mkdirInRoot(r.root, path.Dir(name), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	base := path.Base(name)
	number := 0
	if mode&unix.S_IFMT != unix.S_IFIFO {
		number = int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	}
	err = unix.Mknodat(dir, base, mode, number)
	if err == unix.EEXIST {
		return r.keepDevice(dir, name, mode, number)
	}
	if err == unix.EPERM || err == unix.EOPNOTSUPP || err == unix.EACCES {
		return r.bindDevice(name)
	}
	if err != nil {
		return os.NewSyscallError("mknod", err)
	}
	// Neither the umask nor the creator counts.
	if err := unix.Fchmodat(dir, base, mode&0o7777, 0); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	uid, gid := 0, 0
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	return os.NewSyscallError("chown", unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// keepDevice accepts a node that exists if it is the one wanted. A regular file
// is what an earlier container has bound its device to, or an image has for the
// purpose.
func (r *rootfs) keepDevice(dir int, name string, mode uint32, number int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("stat", err)
	}
	switch typ := st.Mode & unix.S_IFMT; {
	case typ == mode&unix.S_IFMT && (typ == unix.S_IFIFO || st.Rdev == uint64(number)):
		return nil
	case typ == unix.S_IFREG && mode&unix.S_IFMT != unix.S_IFIFO:
		return r.bindDevice(name)
	}
	return errors.New("something else exists there")
}

func (r *rootfs) bindDevice(name string) error {
	source, err := unix.OpenTree(r.dev, path.Base(name), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(source)
	target, err := createInRoot(r.root, name)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return os.NewSyscallError("move_mount",
		unix.MoveMount(source, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}
