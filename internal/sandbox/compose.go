package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// shareAttrs hold for every mount of the share. The VM process opens no device
// and executes no program that is in it; what the guest may do with them is
// decided by the guest's own mounts.
const shareAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// Root is the composed root file system, which becomes the share.
type Root struct {
	// Dir is the directory, O_PATH. It stays valid when the process has
	// entered the root.
	Dir *os.File

	// Unmapped has the id-mapped mounts, by their ids, in which the id of the
	// file server is the share's in name only: see withServer.
	Unmapped map[uint64]Unmapped

	path string // as the kernel shows it

	mappings []*os.File // user namespaces, for the id-mapped binds to come
}

// Compose assembles the plan's root file system in this process's own mount
// namespace. The sources of the guest's bind mounts become the places below the
// root at which the guest finds them.
//
// Destinations are resolved inside the root, so that no symbolic link of the
// root file system leads out of it. It may be called once, by a process that
// Start started. With restored the guest has its mounts already, from a
// checkpoint: their mount points, which it does not make again, are made.
func Compose(p *spec.Plan, restored bool) (*Root, error) {
	return compose(p, restored, inheritedUserNamespaces(p.Binds))
}

func compose(p *spec.Plan, restored bool, mappings []*os.File) (*Root, error) {
	defer closeAll(mappings)
	// Unmounts on the host reach this namespace, and nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", os.NewSyscallError("mount", err))
	}
	r, err := bindRoot(p)
	if err != nil {
		return nil, fmt.Errorf("root.path %s: %w", p.Rootfs, err)
	}
	r.mappings = mappings
	if err := r.compose(p, restored); err != nil {
		r.Dir.Close()
		return nil, err
	}
	return r, nil
}

func (r *Root) compose(p *spec.Plan, restored bool) error {
	covered, err := r.prepareGuestMounts(p, restored)
	if err != nil {
		return err
	}
	for _, b := range p.Binds {
		source, options, err := r.bind(b)
		if err != nil {
			return fmt.Errorf("mounts[%d]: bind %s on %s: %w", b.Index, b.Source, b.Destination, err)
		}
		m := &p.Spec.Mounts[b.Index]
		m.Source, m.Options = source, append(slices.Clone(m.Options), options...)
	}
	for _, dir := range covered {
		err := setAttr(dir, false, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		dir.Close()
		if err != nil {
			return err
		}
	}
	if err := setAttr(r.Dir, true, &unix.MountAttr{Attr_set: shareAttrs}); err != nil {
		return err
	}
	if p.RootfsReadonly {
		return setAttr(r.Dir, false, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return nil
}

// bindRoot mounts the root file system on its own directory, which makes it
// something that pivot_root accepts.
func bindRoot(p *spec.Plan) (*Root, error) {
	tree, err := openTree(p.Rootfs, true)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	propagation := uint64(unix.MS_SLAVE)
	if p.RootfsPrivate {
		propagation = unix.MS_PRIVATE
	}
	if err := setAttr(tree, true, &unix.MountAttr{Propagation: propagation}); err != nil {
		return nil, err
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, p.Rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
		return nil, os.NewSyscallError("move_mount", err)
	}
	dir, err := os.OpenFile(p.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	name, err := fdPath(dir)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &Root{Dir: dir, path: name}, nil
}

// prepareGuestMounts makes the mount points of the file systems that the guest
// mounts by itself, where the guest cannot: in a read-only root, or when it has
// mounted them before. Where a bind
// mount comes to lie below one of them, a small tmpfs takes its place, so that
// the bind's mount point is not left behind in the root file system. These
// tmpfs are returned. What the guest does not see because of all that, it is
// told by options of the mount.
func (r *Root) prepareGuestMounts(p *spec.Plan, restored bool) ([]*os.File, error) {
	var covered []*os.File
	for i, m := range p.Spec.Mounts {
		if isPlannedBind(p, i) {
			continue
		}
		below := false
		for _, b := range p.Binds {
			below = below || strings.HasPrefix(b.Destination, path.Clean(m.Destination)+"/")
		}
		if !below && !p.RootfsReadonly && !restored {
			continue
		}
		if under(p.Spec.Mounts[:i], m.Destination, p) {
			continue
		}
		dir, err := r.cover(&p.Spec.Mounts[i], below)
		if err != nil {
			return covered, fmt.Errorf("mounts[%d]: %s: %w", i, m.Destination, err)
		}
		if dir != nil {
			covered = append(covered, dir)
		}
	}
	return covered, nil
}

// under tells whether destination is below a file system of the guest's own.
func under(mounts []specs.Mount, destination string, p *spec.Plan) bool {
	for i, m := range mounts {
		if !isPlannedBind(p, i) && strings.HasPrefix(path.Clean(destination), path.Clean(m.Destination)+"/") {
			return true
		}
	}
	return false
}

func isPlannedBind(p *spec.Plan, index int) bool {
	for _, b := range p.Binds {
		if b.Index == index {
			return true
		}
	}
	return false
}

// cover makes the directory of a guest's mount, and a tmpfs on it if binds come
// below it.
func (r *Root) cover(m *specs.Mount, below bool) (*os.File, error) {
	dir, err := r.open(m.Destination)
	missing := errors.Is(err, unix.ENOENT)
	if missing {
		dir, err = r.mkdir(m.Destination)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	copyUp := slices.Index(m.Options, "tmpcopyup")
	keep := below && copyUp >= 0 && !missing
	if m.Type == "tmpfs" && (below || missing) && !keep {
		if err := modeBelow(m, dir, missing); err != nil {
			return nil, err
		}
	}
	if !below {
		return nil, nil
	}
	tmpfs, err := newTmpfs()
	if err != nil {
		return nil, err
	}
	err = moveMount(tmpfs, dir)
	if err == nil && keep {
		m.Options = slices.Clone(m.Options)
		m.Options[copyUp] += "=" + lowerName
		err = bindLower(tmpfs, dir)
	}
	if err != nil {
		tmpfs.Close()
		return nil, err
	}
	return tmpfs, nil
}

// modeBelow gives a tmpfs without a mode that of the directory it covers; where
// there was none, a tmpfs's own.
func modeBelow(m *specs.Mount, dir *os.File, missing bool) error {
	if slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") }) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	mode := st.Mode & 0o7777
	if missing {
		mode = 0o1777
	}
	m.Options = append(slices.Clone(m.Options), fmt.Sprintf("mode=%04o", mode))
	return nil
}

// lowerName is where in a covering tmpfs the covered directory is, for the guest
// to copy its content, mode and owner.
const lowerName = ".runv-lower"

// bindLower binds dir itself, read-only, into the tmpfs that covers it.
func bindLower(tmpfs, dir *os.File) error {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	tree := os.NewFile(uintptr(fd), "lower")
	defer tree.Close()
	if err := setAttr(tree, false, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		return err
	}
	if err := unix.Mkdirat(int(tmpfs.Fd()), lowerName, 0o700); err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	fd, err = unix.Openat(int(tmpfs.Fd()), lowerName, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	target := os.NewFile(uintptr(fd), lowerName)
	defer target.Close()
	return moveMount(tree, target)
}

// bind mounts one source and tells at which path below the root it ended, and
// what holds for it there.
func (r *Root) bind(b spec.Bind) (inside string, options []string, err error) {
	tree, err := openTree(b.Source, b.Recursive)
	if err != nil {
		return "", nil, err
	}
	defer tree.Close()
	// The attributes are set before the tree can be reached.
	propagation, whole := b.Propagation&^unix.MS_REC, b.Propagation&unix.MS_REC != 0
	if propagation == 0 {
		propagation, whole = unix.MS_PRIVATE, true
	}
	for _, step := range []struct {
		whole bool
		attr  unix.MountAttr
	}{
		{whole, unix.MountAttr{Propagation: propagation}},
		{true, unix.MountAttr{Attr_set: b.RecSet, Attr_clr: b.RecClear}},
		{false, unix.MountAttr{Attr_set: b.Set, Attr_clr: b.Clear}},
	} {
		if step.attr == (unix.MountAttr{}) {
			continue
		}
		if err := setAttr(tree, step.whole, &step.attr); err != nil {
			return "", nil, err
		}
	}
	if b.IDMap != nil {
		ns := r.mappings[0]
		r.mappings = r.mappings[1:]
		if err := setIDMap(tree, b.IDMap.Recursive, ns); err != nil {
			return "", nil, err
		}
	}
	if options, err = inherited(tree); err != nil {
		return "", nil, err
	}
	dir, err := isDir(tree)
	if err != nil {
		return "", nil, err
	}
	target, err := r.mountPoint(b.Destination, dir)
	if err != nil {
		return "", nil, fmt.Errorf("mount point: %w", err)
	}
	defer target.Close()
	if inside, err = r.inside(target); err != nil {
		return "", nil, err
	}
	if err := moveMount(tree, target); err != nil {
		return "", nil, err
	}
	if b.IDMap != nil {
		err = r.noteUnmapped(tree, b.IDMap)
	}
	return inside, options, err
}

// mountPoint opens the destination inside the root and creates what is missing
// of it: directories, and at the end a directory or an empty file.
func (r *Root) mountPoint(destination string, dir bool) (*os.File, error) {
	target, err := r.open(destination)
	if err == nil {
		is, err := isDir(target)
		if err == nil && is != dir {
			err = unix.ENOTDIR
			if is {
				err = unix.EISDIR
			}
		}
		if err != nil {
			target.Close()
			return nil, err
		}
		return target, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if dir {
		return r.mkdir(destination)
	}
	// A symbolic link to a file that is missing is common (resolv.conf): the
	// file is made where the link leads, inside the root.
	name, err := r.resolveMissing(destination)
	if err != nil {
		return nil, err
	}
	parent, err := r.mkdir(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	fd, err := unix.Openat(int(parent.Fd()), path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0o644)
	if err != nil && err != unix.EEXIST {
		return nil, os.NewSyscallError("create", err)
	}
	if err == nil {
		unix.Close(fd)
	}
	return r.open(name)
}

// resolveMissing resolves the symbolic links of a path inside the root of which
// not everything exists. What it says is only used through open and mkdir.
func (r *Root) resolveMissing(name string) (string, error) {
	full, err := securejoin.SecureJoin(r.path, name)
	if err != nil {
		return "", err
	}
	if full == r.path {
		return "/", nil
	}
	inside, ok := strings.CutPrefix(full, strings.TrimSuffix(r.path, "/")+"/")
	if !ok {
		return "", fmt.Errorf("%s is outside of the root file system", name)
	}
	return "/" + inside, nil
}

// open opens a path inside the root, O_PATH.
func (r *Root) open(name string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(int(r.Dir.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case err == unix.EAGAIN && tries < 100: // a rename raced with ".."
		case err != unix.EINTR:
			return nil, os.NewSyscallError("openat2", err)
		}
	}
}

// mkdir makes a directory and its parents inside the root.
func (r *Root) mkdir(name string) (*os.File, error) {
	name, err := r.resolveMissing(name)
	if err != nil {
		return nil, err
	}
	dir, err := pathrs.MkdirAllHandle(r.Dir, name, 0o755)
	if err != nil {
		return nil, err
	}
	dir.Close()
	return r.open(name)
}

// inside is the path of f below the root.
func (r *Root) inside(f *os.File) (string, error) {
	name, err := fdPath(f)
	if err != nil {
		return "", err
	}
	below, ok := strings.CutPrefix(name, strings.TrimSuffix(r.path, "/")+"/")
	if !ok {
		return "", fmt.Errorf("%s is not below the root file system", name)
	}
	return "/" + below, nil
}

// Enter makes the root the process's own; nothing else stays visible.
func (r *Root) Enter() error {
	if err := unix.Fchdir(int(r.Dir.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// With both arguments the same, the old root comes to lie on top of the new
	// one and needs no directory.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount2", err)
	}
	return os.Chdir("/")
}
