// Package passthrough serves one directory of the host as a FUSE file system,
// to a client that is not trusted.
//
// Every object is reached through a file descriptor: an inode is an O_PATH
// descriptor, keyed by device, inode number and mount, and an operation names
// at most one component beneath one. No path is ever walked, no symbolic link
// is ever followed (the client resolves them), and node ids and file handles
// are looked up in tables whose ids are never used twice. So no message can
// name anything outside of the directory and of what is mounted beneath it.
//
// The client is expected to decide about permissions (default_permissions):
// what it asks for is done with this process's privileges. New objects get
// the owner in the request's header.
//
// Locks are the client's own: neither POSIX nor flock locks are forwarded, as
// virtio-fs has no way to interrupt a request that waits for one.
package passthrough

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/logging"
)

// RootAlias is a second node id of the root, besides fuse.FUSE_ROOT_ID.
const RootAlias = 1<<63 | fuse.FUSE_ROOT_ID

// Defaults of Options.
const (
	DefaultTimeout   = time.Second
	DefaultMaxInodes = 1 << 20

	// minDescriptors is the least budget of descriptors that works at all.
	minDescriptors = 64
)

// Options describe a share. Root is required.
type Options struct {
	// Root is the directory to serve, opened with O_PATH or for reading. New
	// duplicates it.
	Root *os.File

	// Proc is the directory /proc/self/fd of a procfs that shows this process,
	// opened with O_PATH; nil means the one that is mounted. New duplicates it.
	Proc *os.File

	// ReadOnly refuses everything that modifies the share with EROFS.
	ReadOnly bool

	// DeviceNodes allows block and character devices to be created, as far as
	// the host's kernel does. Without it only whiteouts, which are character
	// devices 0/0, are.
	DeviceNodes bool

	// Unmapped has the id-mapped mounts of the share, by their ids, in which
	// this process's own ids stand for nobody whose files the client may make.
	Unmapped map[uint64]Unmapped

	// EntryTimeout and AttrTimeout are how long the client may use a name or
	// attributes without asking again; zero means DefaultTimeout, less than
	// zero not at all.
	EntryTimeout, AttrTimeout time.Duration

	// NegativeTimeout is how long the client may remember that a name does
	// not exist; zero means not at all.
	NegativeTimeout time.Duration

	// MaxDescriptors bounds the descriptors the share holds open; zero means
	// three quarters of RLIMIT_NOFILE. Two fifths of it are for what the client
	// has open, the others for inodes, an open file's among them. Beyond half
	// of it, descriptors of inodes which are not in use are closed, and opened
	// again by name when needed. A client with more in use gets ENFILE.
	MaxDescriptors int

	// MaxInodes bounds the inodes which the client has looked up and not
	// forgotten; zero means DefaultMaxInodes. Beyond it lookups get ENFILE.
	MaxInodes int

	// Log gets what goes wrong on the host's side. Required messages only:
	// nothing a client can repeat at will.
	Log *slog.Logger
}

// Unmapped tells which of this process's ids are not to be used on a mount.
type Unmapped struct{ UID, GID bool }

// FS is a fuse.RawFileSystem which serves a directory. All methods may be
// called at once from any number of goroutines.
type FS struct {
	fuse.RawFileSystem // ENOSYS for what is not implemented here

	proc     int // /proc/self/fd
	readOnly bool
	devices  bool

	entryTimeout, attrTimeout, negativeTimeout time.Duration

	uid, gid uint32 // owner of what this process creates
	unmapped map[uint64]Unmapped

	inodes  *inodeTable
	handles *handleTable
	ahead   atomic.Int64 // bytes of entries that directories have read ahead
	mounts  *deviceTable
	xattrs  xattrCalls

	syncMu sync.Mutex // one syncfs at a time

	log *logging.Limited // what a client can cause
}

var _ fuse.RawFileSystem = (*FS)(nil)

// New returns a file system which serves opts.Root.
//
// It keeps opts.Proc open; without one it opens /proc/self/fd, so that it is to
// be called before the process changes its root. It
// sets the process's umask to 0, as the client's umask is the one that counts,
// and ignores SIGXFSZ, so that a write beyond RLIMIT_FSIZE is an error.
func New(opts Options) (*FS, error) {
	if opts.Root == nil {
		return nil, errors.New("passthrough: no root directory")
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit, err := descriptorLimit(opts.MaxDescriptors)
	if err != nil {
		return nil, err
	}
	f := &FS{
		RawFileSystem:   fuse.NewDefaultRawFileSystem(),
		proc:            -1,
		readOnly:        opts.ReadOnly,
		devices:         opts.DeviceNodes,
		entryTimeout:    timeout(opts.EntryTimeout),
		attrTimeout:     timeout(opts.AttrTimeout),
		negativeTimeout: max(opts.NegativeTimeout, 0),
		uid:             uint32(os.Geteuid()),
		gid:             uint32(os.Getegid()),
		unmapped:        opts.Unmapped,
		mounts:          newDeviceTable(),
		log:             logging.NewLimited(log),
	}
	if f.proc, err = openProc(opts.Proc); err != nil {
		return nil, err
	}
	root, err := f.openRoot(opts.Root)
	if err != nil {
		unix.Close(f.proc)
		return nil, err
	}
	maxInodes := opts.MaxInodes
	if maxInodes <= 0 {
		maxInodes = DefaultMaxInodes
	}
	maxHandles := limit * 2 / 5
	f.inodes = newInodeTable(root, limit/2, limit-maxHandles, maxInodes)
	f.handles = newHandleTable(maxHandles)
	f.xattrs = f.newXattrCalls(root.fd)
	unix.Umask(0)
	signal.Ignore(unix.SIGXFSZ)
	return f, nil
}

// Descriptors are those that the share has open: from the beginning two, and those
// of a restored session.
func (f *FS) Descriptors() []int {
	list := []int{f.proc}
	nodes := make(map[*inode]bool)
	f.handles.mu.Lock()
	for _, h := range f.handles.byID {
		list = append(list, h.fd)
		nodes[h.node] = true
	}
	f.handles.mu.Unlock()
	f.inodes.mu.Lock()
	defer f.inodes.mu.Unlock()
	for _, n := range f.inodes.byID { // the root among them
		nodes[n] = true
	}
	for n := range nodes {
		if n.fd >= 0 {
			list = append(list, n.fd)
		}
	}
	return list
}

// Close closes every descriptor. Requests must have ended, or they fail.
func (f *FS) Close() error {
	f.Clear()
	f.inodes.close()
	f.xattrs.close()
	if f.proc >= 0 {
		err := unix.Close(f.proc)
		f.proc = -1
		return os.NewSyscallError("close", err)
	}
	return nil
}

// Clear forgets all inodes and handles, as if the client had released them.
// What a running request uses is let go when that ends.
func (f *FS) Clear() {
	f.handles.clear(f)
	f.inodes.clear()
}

func (f *FS) String() string { return "runv-passthrough" }

// SetDebug, Init and OnUnmount have nothing to do.
func (f *FS) SetDebug(bool)     {}
func (f *FS) Init(*fuse.Server) {}
func (f *FS) OnUnmount()        {}

func timeout(d time.Duration) time.Duration {
	if d == 0 {
		return DefaultTimeout
	}
	return max(d, 0)
}

func descriptorLimit(limit int) (int, error) {
	if limit == 0 {
		var lim unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			return 0, os.NewSyscallError("getrlimit", err)
		}
		limit = int(min(lim.Cur, math.MaxInt32) / 4 * 3)
	}
	if limit < minDescriptors {
		return 0, fmt.Errorf("passthrough: %d file descriptors are too few, %d are needed", limit, minDescriptors)
	}
	return limit, nil
}

func openProc(dir *os.File) (int, error) {
	at, name := unix.AT_FDCWD, "/proc/self/fd"
	if dir != nil {
		at, name = int(dir.Fd()), "."
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("passthrough: /proc/self/fd: %w", os.NewSyscallError("open", err))
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil || sfs.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, errors.New("passthrough: /proc is not procfs")
	}
	return fd, nil
}

func (f *FS) openRoot(dir *os.File) (*inode, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("passthrough: root: %w", os.NewSyscallError("openat", err))
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("passthrough: root: %w", os.NewSyscallError("statx", err))
	}
	n := &inode{id: fuse.FUSE_ROOT_ID, fd: fd, lookups: 1}
	n.identify(&st)
	f.mounts.index(n.key.dev) // the root's device is number 0
	return n, nil
}

// StatFs describes the file system that holds the inode.
func (f *FS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, err := f.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(n.fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks:  st.Blocks,
		Bfree:   st.Bfree,
		Bavail:  st.Bavail,
		Files:   st.Files,
		Ffree:   st.Ffree,
		Bsize:   uint32(st.Bsize),
		NameLen: uint32(st.Namelen),
		Frsize:  uint32(st.Frsize),
	}
	return fuse.OK
}

// SyncFS writes back the file system that holds the inode.
func (f *FS) SyncFS(node uint64) fuse.Status {
	n, err := f.inodes.get(node)
	if err != nil {
		return status(err)
	}
	defer f.inodes.put(n)
	fd := n.fd
	if n.typ == unix.S_IFDIR || n.typ == unix.S_IFREG {
		if fd, err = f.reopen(n.fd, unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
			return status(err)
		}
		defer unix.Close(fd)
	}
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	return status(retry(func() error { return unix.Syncfs(fd) }))
}
