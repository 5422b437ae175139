package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestManyInodes keeps more inodes than there may be descriptors, and uses all
// of them.
func TestManyInodes(t *testing.T) {
	const limit, dirs, files = 64, 20, 20
	before := openDescriptors(t)
	c := newClient(t, Options{MaxDescriptors: limit})
	type file struct {
		dir, node uint64
		name      string
	}
	var all []file
	for i := range dirs {
		name := fmt.Sprint("d", i)
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		dir := c.walk(name)
		for j := range files {
			f := fmt.Sprint("f", j)
			c.put(filepath.Join(name, f), name+f)
			out, st := c.lookup(dir, f)
			if st != fuse.OK {
				t.Fatal(st)
			}
			all = append(all, file{dir, out.NodeId, filepath.Join(name, f)})
			if n := openDescriptors(t); n > before+limit+2 {
				t.Fatalf("%d descriptors are open, %d were", n, before)
			}
		}
	}
	contents := func(f file) (string, fuse.Status) {
		fh, st := c.open(f.node, unix.O_RDONLY)
		if st != fuse.OK {
			return "", st
		}
		defer c.Release(nil, &fuse.ReleaseIn{InHeader: c.head(f.node), Fh: fh})
		return c.read(f.node, fh, 100)
	}
	for _, f := range all {
		if s, st := contents(f); st != fuse.OK || s != filepath.Dir(f.name)+filepath.Base(f.name) {
			t.Fatalf("%s: %q, %v", f.name, s, st)
		}
	}

	// Removed or renamed by the client: still reachable.
	gone, moved := all[0], all[1]
	h := c.head(gone.dir)
	if st := c.Unlink(nil, &h, filepath.Base(gone.name)); st != fuse.OK {
		t.Fatal(st)
	}
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: c.head(moved.dir), Newdir: fuse.FUSE_ROOT_ID}, filepath.Base(moved.name), "moved"); st != fuse.OK {
		t.Fatal(st)
	}
	// Replaced behind its back: not mistaken for what it was.
	swapped := all[2]
	path := filepath.Join(c.dir, swapped.name)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	c.put(swapped.name, "impostor")
	for _, f := range all[3:] {
		if _, st := contents(f); st != fuse.OK {
			t.Fatalf("%s: %v", f.name, st)
		}
	}
	for _, f := range []file{gone, moved} {
		if s, st := contents(f); st != fuse.OK || s != filepath.Dir(f.name)+filepath.Base(f.name) {
			t.Errorf("%s after its name went: %q, %v", f.name, s, st)
		}
	}
	if s, st := contents(swapped); s == "impostor" || st == fuse.OK && s != "d0f2" {
		t.Errorf("%s after it was replaced: %q, %v", swapped.name, s, st)
	}

	for _, f := range all {
		c.Forget(f.node, 1)
	}
	c.Clear()
	if c.inodes.total != 1 || c.inodes.open != 1 || len(c.inodes.byKey) != 1 || len(c.inodes.closed) != 0 {
		t.Errorf("%d inodes, %d descriptors, %d keys, %d closed are left", c.inodes.total, c.inodes.open, len(c.inodes.byKey), len(c.inodes.closed))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := openDescriptors(t); n != before {
		t.Errorf("%d descriptors are open, %d were", n, before)
	}
}

func TestMaxInodes(t *testing.T) {
	c := newClient(t, Options{MaxInodes: 10})
	var last fuse.Status
	var nodes []uint64
	for i := range 20 {
		name := fmt.Sprint(i)
		c.put(name, "")
		out, st := c.lookup(fuse.FUSE_ROOT_ID, name)
		if last = st; st == fuse.OK {
			nodes = append(nodes, out.NodeId)
		}
	}
	if len(nodes) != 9 || last != errno(unix.ENFILE) {
		t.Fatalf("%d lookups succeeded, the last ended in %v", len(nodes), last)
	}
	c.Forget(nodes[0], 1)
	if _, st := c.lookup(fuse.FUSE_ROOT_ID, "19"); st != fuse.OK {
		t.Errorf("lookup after a forget: %v", st)
	}
}

func TestMaxHandles(t *testing.T) {
	c := newClient(t, Options{MaxDescriptors: 64})
	c.put("file", "")
	node := c.walk("file")
	n := 0
	for range 100 {
		if _, st := c.open(node, unix.O_RDONLY); st == fuse.OK {
			n++
		} else if st != errno(unix.ENFILE) {
			t.Fatal(st)
		}
	}
	if n != 25 {
		t.Errorf("%d opens succeeded, want two fifths of 64", n)
	}
}

// TestMovedInto moves directories into each other, which makes what is known
// about their parents contradict itself for a while.
func TestMovedInto(t *testing.T) {
	c := newClient(t, Options{})
	if err := os.MkdirAll(filepath.Join(c.dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := c.walk("a")
	b := c.walk("a", "b")
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: c.head(a), Newdir: 1}, "b", "b"); st != fuse.OK {
		t.Fatal(st)
	}
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: c.head(1), Newdir: b}, "a", "a"); st != fuse.OK {
		t.Fatal(st)
	}
	if out, st := c.lookup(b, "a"); st != fuse.OK || out.NodeId != a {
		t.Fatalf("node %d, %v; want %d", out.NodeId, st, a)
	}
	c.Clear()
	if c.inodes.total != 1 || c.inodes.open != 1 {
		t.Errorf("%d inodes and %d descriptors are left", c.inodes.total, c.inodes.open)
	}
}

// TestMounts crosses mount points beneath the root.
func TestMounts(t *testing.T) {
	c := newClient(t, Options{})
	for _, name := range []string{"vol", "bind"} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	vol, bind := filepath.Join(c.dir, "vol"), filepath.Join(c.dir, "bind")
	if err := unix.Mount("tmpfs", vol, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mounting, which needs root: %v", err)
	}
	defer unix.Unmount(vol, unix.MNT_DETACH)
	if err := unix.Mount(vol, bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(bind, unix.MNT_DETACH)
	if err := unix.Mount("", bind, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	c.put("vol/file", "x")
	root := c.host("")
	v, st := c.lookup(1, "vol")
	if st != fuse.OK || v.Flags&fuse.ATTR_SUBMOUNT == 0 || v.Ino>>inoBits == 0 {
		t.Errorf("the volume: %v, flags %#x, inode %#x", st, v.Flags, v.Ino)
	}
	b, _ := c.lookup(1, "bind")
	if b.NodeId == v.NodeId {
		t.Error("two mounts are one inode")
	}
	f1, _ := c.lookup(v.NodeId, "file")
	f2, _ := c.lookup(b.NodeId, "file")
	if f1.Flags != 0 || f1.Ino != f2.Ino || f1.Ino == root.Ino {
		t.Errorf("a file on the volume: flags %#x, inodes %#x and %#x", f1.Flags, f1.Ino, f2.Ino)
	}
	if _, st := c.open(f1.NodeId, unix.O_RDWR); st != fuse.OK {
		t.Errorf("open: %v", st)
	}
	if _, st := c.open(f2.NodeId, unix.O_RDWR); st != fuse.EROFS {
		t.Errorf("open through the read-only mount: %v", st)
	}
	var eo fuse.EntryOut
	if st := c.Mkdir(nil, &fuse.MkdirIn{InHeader: c.head(b.NodeId)}, "d", &eo); st != fuse.EROFS {
		t.Errorf("mkdir on the read-only mount: %v", st)
	}
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: c.head(v.NodeId), Newdir: 1}, "file", "file"); st != fuse.EXDEV {
		t.Errorf("rename to another file system: %v", st)
	}
	c.Clear()
}
