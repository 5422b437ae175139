package initproc

import (
	"errors"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootfs is a root file system under construction.
type rootfs struct {
	spec *specs.Spec
	root int // the root directory, O_PATH
	// Taken before the first mount of the guest's can hide them: the trees
	// of the bind mounts, by their index in spec.Mounts.
	binds map[int]int
	// Mounts that seal makes read-only: other mounts may need a place there.
	readonly []int
	// The agent's /proc/sys and /dev, which pivot_root takes out of sight.
	sys, dev int
	// userNamespace: the caller is root in its user namespace only.
	userNamespace bool
	sysfs         int // for a user namespace: a detached mount
}

// buildRootfs mounts the root file system at cfg.Rootfs.Target, in the mount
// namespace of the caller, with everything the configuration puts into it. The
// caller enters it with enter. sysfs is for a caller in a user namespace.
func buildRootfs(cfg *Config, sysfs int) (*rootfs, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	m := cfg.Rootfs
	r := &rootfs{spec: cfg.Spec, binds: make(map[int]int), sysfs: sysfs, userNamespace: cfg.Namespaces&unix.CLONE_NEWUSER != 0}
	if err := r.mountRoot(&m); err != nil {
		return nil, err
	}
	for _, open := range []struct {
		fd   *int
		name string
	}{{&r.root, m.Target}, {&r.sys, "/proc/sys"}, {&r.dev, "/dev"}} {
		fd, err := unix.Open(open.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: open.name, Err: err}
		}
		*open.fd = fd
	}
	if err := r.takeBinds(); err != nil {
		return nil, err
	}
	for i := range r.spec.Mounts {
		mount := &r.spec.Mounts[i]
		if err := r.mount(i, mount); err != nil {
			return nil, fmt.Errorf("mount %s (%s) at %s: %w", mount.Source, mountType(mount), mount.Destination, err)
		}
	}
	if r.ownsDev() {
		if err := r.makeDevices(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *rootfs) mountRoot(m *Rootfs) error {
	if !r.userNamespace {
		return m.Mount()
	}
	// The agent has mounted it there: what came along into this mount
	// namespace cannot become a root, but a copy can.
	fd, err := unix.Open(m.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = mountTree(m.Target, fd)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("take over the root file system: %w", err)
	}
	return nil
}

// Mount mounts the root file system.
func (m *Rootfs) Mount() error {
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mount root file system %s (%s): %w", m.Source, m.Type, err)
	}
	return nil
}

func mountType(m *specs.Mount) string {
	if parseMountOptions(m.Options).bind {
		return "bind"
	}
	return m.Type
}

// takeBinds detaches a copy of each tree that is bound somewhere.
func (r *rootfs) takeBinds() error {
	for i := range r.spec.Mounts {
		m := &r.spec.Mounts[i]
		o := parseMountOptions(m.Options)
		if !o.bind && m.Type != "bind" {
			continue
		}
		source := m.Source
		if source == "" {
			source = m.Destination
		}
		fd, err := openInRoot(r.root, source, 0)
		if err != nil {
			return fmt.Errorf("bind mount at %s: %w", m.Destination, err)
		}
		// Always recursive: what the host put below it belongs to it.
		tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("bind mount at %s: %w", m.Destination, os.NewSyscallError("open_tree", err))
		}
		r.binds[i] = tree
	}
	return nil
}

// mount performs one mount of the configuration.
func (r *rootfs) mount(i int, m *specs.Mount) error {
	o := parseMountOptions(m.Options)
	if tree, bind := r.binds[i]; bind {
		return r.attachBind(tree, m, &o)
	}
	look := unix.O_DIRECTORY
	if m.Type == "proc" || m.Type == "sysfs" {
		// A link could lead what is to be masked in there astray.
		look |= unix.O_NOFOLLOW
	}
	target, err := openInRoot(r.root, m.Destination, look)
	missing := errors.Is(err, unix.ENOENT)
	if missing {
		target, err = mkdirInRoot(r.root, m.Destination, 0o755)
	}
	if look&unix.O_NOFOLLOW != 0 && errors.Is(err, unix.ENOTDIR) {
		return Invalid("%s must be mounted on ordinary directory", m.Type)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	kind, data, flags := m.Type, o.data, o.flags
	lower := target
	if o.copyUp {
		if lower, err = openLower(target, o.lower); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
		defer unix.Close(lower)
	}
	late := kind == "tmpfs" && flags&unix.MS_RDONLY != 0
	if late {
		flags &^= unix.MS_RDONLY
	}
	switch kind {
	case "cgroup":
		// There is only version 2, whatever the host has.
		kind = "cgroup2"
	case "tmpfs":
		// Where there was nothing a tmpfs has its own default, 1777.
		if !missing {
			data, err = asBelow(data, lower, o.copyUp)
		}
		if err != nil {
			return err
		}
	}
	source := m.Source
	if source == "" {
		source = kind
	}
	err = unix.Mount(source, procFD(target), kind, flags, strings.Join(data, ","))
	if err == unix.EPERM && r.userNamespace && notOwned[kind] {
		if err := r.mountAgents(kind, target); err != nil {
			return err
		}
		// Of a copy all attributes are still to be set; what it has, it keeps.
		o.clear = 0
	} else if err != nil {
		return err
	} else {
		// The plain attributes went with mount(2).
		o.set, o.clear = 0, 0
	}
	mounted, err := openInRoot(r.root, m.Destination, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	if late {
		r.readonly = append(r.readonly, mounted)
	} else {
		defer unix.Close(mounted)
	}
	if o.copyUp {
		if err := copyUp(lower, mounted); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	return setAttributes(mounted, &o)
}

func hasOption(data []string, name string) bool {
	for _, d := range data {
		if strings.HasPrefix(d, name+"=") {
			return true
		}
	}
	return false
}

// asBelow adds to the options of a tmpfs those that keep the mode, and with
// owner the owner, of the directory mounted over, unless they are given.
func asBelow(data []string, dir int, owner bool) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if !hasOption(data, "mode") {
		data = append(data, fmt.Sprintf("mode=%o", st.Mode&0o7777))
	}
	if owner && !hasOption(data, "uid") {
		data = append(data, fmt.Sprintf("uid=%d", st.Uid))
	}
	if owner && !hasOption(data, "gid") {
		data = append(data, fmt.Sprintf("gid=%d", st.Gid))
	}
	return data, nil
}

func (r *rootfs) attachBind(tree int, m *specs.Mount, o *mountOptions) error {
	defer unix.Close(tree)
	if len(o.data) > 0 {
		return Invalid("unknown option %q of a bind mount", o.data[0])
	}
	if err := setAttributes(tree, o); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	var target int
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		target, err = mkdirInRoot(r.root, m.Destination, 0o755)
	} else {
		target, err = createInRoot(r.root, m.Destination)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	err = unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// setAttributes applies attributes and propagation to a mount, given by any
// file descriptor of its root.
func setAttributes(mount int, o *mountOptions) error {
	set := func(attr unix.MountAttr, recursive bool) error {
		if attr == (unix.MountAttr{}) {
			return nil
		}
		flags := uint(unix.AT_EMPTY_PATH)
		if recursive {
			flags |= unix.AT_RECURSIVE
		}
		return os.NewSyscallError("mount_setattr", unix.MountSetattr(mount, "", flags, &attr))
	}
	if err := set(unix.MountAttr{Attr_set: o.recursiveSet, Attr_clr: o.recursiveClear}, true); err != nil {
		return err
	}
	if err := set(unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear}, false); err != nil {
		return err
	}
	for _, flag := range o.propagation {
		err := set(unix.MountAttr{Propagation: uint64(flag &^ unix.MS_REC)}, flag&unix.MS_REC != 0)
		if err != nil {
			return err
		}
	}
	return nil
}

// enter makes the finished root file system the root directory and detaches
// the old one.
func (r *rootfs) enter() error {
	if err := unix.Fchdir(r.root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// Stacks the old root on the new one, at the same place.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	return nil
}

// seal makes paths read-only or hides them; it is the last step on the file
// system, run after enter.
func (r *rootfs) seal() error {
	for _, mount := range r.readonly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("make a tmpfs read-only: %w", err)
		}
		unix.Close(mount)
	}
	if r.spec.Root != nil && r.spec.Root.Readonly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
			return fmt.Errorf("make the root file system read-only: %w", err)
		}
	}
	linux := r.spec.Linux
	if linux == nil {
		return nil
	}
	if flag := propagation[linux.RootfsPropagation]; flag != 0 {
		if err := unix.Mount("", "/", "", flag, ""); err != nil {
			return fmt.Errorf("set propagation of the root file system: %w", err)
		}
	}
	for _, name := range linux.ReadonlyPaths {
		if err := readonlyPath(name); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	for _, name := range linux.MaskedPaths {
		if err := maskPath(name); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	return nil
}

func readonlyPath(name string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return os.NewSyscallError("move_mount",
		unix.MoveMount(tree, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS))
}

func maskPath(name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		if err == unix.ENOENT || err == unix.ENOTDIR {
			return nil
		}
		return os.NewSyscallError("stat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.NewSyscallError("mount", unix.Mount("tmpfs", name, "tmpfs", unix.MS_RDONLY, "nr_inodes=1"))
	}
	return os.NewSyscallError("mount", unix.Mount("/dev/null", name, "", unix.MS_BIND, ""))
}
