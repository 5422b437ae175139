package passthrough

import (
	"sync"

	"golang.org/x/sys/unix"
)

// deviceTable numbers the host's devices in the order they are met. The client
// sees one device, or one a mount, so an inode number which is taken from
// another device than the root's carries the number of its device in its upper
// bits.
type deviceTable struct {
	mu     sync.Mutex
	number map[uint64]uint64
	traits map[uint64]traits
}

// traits are properties of a file system that cost a system call to learn.
type traits struct {
	remote bool // close(2) may report errors
	noACL  bool
}

const (
	inoBits = 48

	// maxDevices bounds the table; later devices share one number.
	maxDevices = 1 << 14
)

func newDeviceTable() *deviceTable {
	return &deviceTable{number: map[uint64]uint64{}, traits: map[uint64]traits{}}
}

func (t *deviceTable) index(dev uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.number[dev]
	if !ok {
		n = uint64(len(t.number))
		if n >= maxDevices {
			return maxDevices
		}
		t.number[dev] = n
	}
	return n
}

// ino is the inode number that the client sees.
func (t *deviceTable) ino(st *unix.Statx_t) uint64 {
	return mapIno(t.index(unix.Mkdev(st.Dev_major, st.Dev_minor)), st.Ino)
}

func mapIno(device, ino uint64) uint64 {
	if device == 0 {
		return ino
	}
	// A number that uses the upper bits itself is folded into the lower
	// ones, where a clash is as unlikely as it gets.
	if high := ino >> inoBits; high != 0 {
		ino ^= high * 0x9e3779b97f4a7c15
	}
	return ino&(1<<inoBits-1) | device<<inoBits
}

// of returns the traits of the file system that fd is on.
func (t *deviceTable) of(dev uint64, fd int) traits {
	t.mu.Lock()
	tr, ok := t.traits[dev]
	t.mu.Unlock()
	if ok {
		return tr
	}
	var st unix.Statfs_t
	if retry(func() error { return unix.Fstatfs(fd, &st) }) != nil {
		return traits{remote: true}
	}
	switch st.Type {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_FS_MAGIC, unix.AFS_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		tr.remote = true
	}
	t.set(dev, tr)
	return tr
}

func (t *deviceTable) set(dev uint64, tr traits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.traits) < maxDevices {
		t.traits[dev] = tr
	}
}
