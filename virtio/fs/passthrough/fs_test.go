package passthrough

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// client calls a file system as a guest would, without its kernel.
type client struct {
	*FS
	t     testing.TB
	dir   string // the share
	owner fuse.Owner
}

func newClient(t testing.TB, opts Options) *client {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &client{FS: newFS(t, dir, opts), t: t, dir: dir}
}

func (c *client) head(node uint64) fuse.InHeader {
	h := fuse.InHeader{NodeId: node}
	h.Owner = c.owner
	return h
}

func (c *client) lookup(dir uint64, name string) (fuse.EntryOut, fuse.Status) {
	var out fuse.EntryOut
	h := c.head(dir)
	st := c.Lookup(nil, &h, name, &out)
	return out, st
}

func (c *client) walk(path ...string) uint64 {
	c.t.Helper()
	node := uint64(fuse.FUSE_ROOT_ID)
	for _, name := range path {
		out, st := c.lookup(node, name)
		if st != fuse.OK {
			c.t.Fatalf("lookup of %q: %v", name, st)
		}
		node = out.NodeId
	}
	return node
}

func (c *client) create(dir uint64, name string, mode uint32) (node, fh uint64) {
	c.t.Helper()
	var out fuse.CreateOut
	st := c.Create(nil, &fuse.CreateIn{InHeader: c.head(dir), Flags: unix.O_RDWR | unix.O_EXCL, Mode: unix.S_IFREG | mode}, name, &out)
	if st != fuse.OK {
		c.t.Fatalf("create %q: %v", name, st)
	}
	return out.NodeId, out.Fh
}

func (c *client) open(node uint64, flags uint32) (uint64, fuse.Status) {
	var out fuse.OpenOut
	st := c.Open(nil, &fuse.OpenIn{InHeader: c.head(node), Flags: flags}, &out)
	return out.Fh, st
}

func (c *client) read(node, fh uint64, size int) (string, fuse.Status) {
	buf := make([]byte, size)
	n, st := c.ReadInto(&fuse.ReadIn{InHeader: c.head(node), Fh: fh, Size: uint32(size)}, [][]byte{buf})
	return string(buf[:n]), st
}

func (c *client) write(node, fh uint64, data string, flags uint32) fuse.Status {
	_, st := c.Write(nil, &fuse.WriteIn{InHeader: c.head(node), Fh: fh, Size: uint32(len(data)), WriteFlags: flags}, []byte(data))
	return st
}

func (c *client) host(name string) unix.Stat_t {
	c.t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(c.dir, name), &st); err != nil {
		c.t.Fatalf("lstat %s: %v", name, err)
	}
	return st
}

func (c *client) put(name, data string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(data), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func errno(e unix.Errno) fuse.Status { return fuse.Status(e) }

// mutations are all operations that modify a share, on existing and new names.
func (c *client) mutations(dir, node, fh uint64) map[string]fuse.Status {
	var eo fuse.EntryOut
	var ao fuse.AttrOut
	var co fuse.CreateOut
	var oo fuse.OpenOut
	h := c.head(dir)
	nh := c.head(node)
	m := map[string]fuse.Status{
		"setattr":     c.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: nh, Valid: fuse.FATTR_MODE, Mode: 0o600}}, &ao),
		"symlink":     c.Symlink(nil, &h, "target", "new1", &eo),
		"mknod":       c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFIFO | 0o600}, "new2", &eo),
		"mkdir":       c.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o700}, "new3", &eo),
		"link":        c.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: node}, "new4", &eo),
		"create":      c.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR, Mode: 0o600}, "new5", &co),
		"create ro":   c.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDONLY, Mode: 0o600}, "file", &co),
		"tmpfile":     c.Tmpfile(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR, Mode: 0o600}, &co),
		"setxattr":    c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: nh, Size: 1}, "user.a", []byte("x")),
		"removexattr": c.RemoveXAttr(nil, &nh, "user.a"),
		"open w":      c.Open(nil, &fuse.OpenIn{InHeader: nh, Flags: unix.O_WRONLY}, &oo),
		"open trunc":  c.Open(nil, &fuse.OpenIn{InHeader: nh, Flags: unix.O_RDONLY | unix.O_TRUNC}, &oo),
		"write":       c.write(node, fh, "x", 0),
		"fallocate":   c.Fallocate(nil, &fuse.FallocateIn{InHeader: nh, Fh: fh, Length: 100}),
		// In this order, as Go evaluates calls from top to bottom.
		"rename": c.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: dir}, "file", "new6"),
		"unlink": c.Unlink(nil, &h, "new6"),
		"rmdir":  c.Rmdir(nil, &h, "sub"),
	}
	_, m["copy_file_range"] = c.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: nh, FhIn: fh, NodeIdOut: node, FhOut: fh, OffOut: 100, Len: 1})
	return m
}

func TestReadOnly(t *testing.T) {
	for _, readOnly := range []bool{true, false} {
		t.Run(fmt.Sprint(readOnly), func(t *testing.T) {
			c := newClient(t, Options{ReadOnly: readOnly})
			c.put("file", "contents")
			if err := os.Mkdir(filepath.Join(c.dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			node := c.walk("file")
			flags := uint32(unix.O_RDWR)
			if readOnly {
				flags = unix.O_RDONLY
			}
			fh, st := c.open(node, flags)
			if st != fuse.OK {
				t.Fatal(st)
			}
			want := fuse.OK
			if readOnly {
				want = fuse.EROFS
			}
			for name, st := range c.mutations(fuse.FUSE_ROOT_ID, node, fh) {
				if st != want {
					t.Errorf("%s: got %v, want %v", name, st, want)
				}
			}
			if !readOnly {
				return
			}
			if data, _ := os.ReadFile(filepath.Join(c.dir, "file")); string(data) != "contents" {
				t.Errorf("file is %q now", data)
			}
			if list, _ := os.ReadDir(c.dir); len(list) != 2 {
				t.Errorf("the share has %d entries now", len(list))
			}
		})
	}
}

// TestNames gives every operation that takes a name some that lead elsewhere.
func TestNames(t *testing.T) {
	c := newClient(t, Options{})
	secret := filepath.Join(filepath.Dir(c.dir), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.put("file", "")
	node := c.walk("file")
	h := c.head(fuse.FUSE_ROOT_ID)
	for _, name := range []string{"", ".", "..", "/", "../secret", "/etc/passwd", "a/b", "x\x00y", "file/", strings.Repeat("n", 256)} {
		var eo fuse.EntryOut
		var co fuse.CreateOut
		for op, st := range map[string]fuse.Status{
			"lookup":      c.Lookup(nil, &h, name, &eo),
			"mknod":       c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG}, name, &eo),
			"mkdir":       c.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, name, &eo),
			"symlink":     c.Symlink(nil, &h, "t", name, &eo),
			"link":        c.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: node}, name, &eo),
			"create":      c.Create(nil, &fuse.CreateIn{InHeader: h, Flags: unix.O_RDWR}, name, &co),
			"unlink":      c.Unlink(nil, &h, name),
			"rmdir":       c.Rmdir(nil, &h, name),
			"rename from": c.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: 1}, name, "new"),
			"rename to":   c.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: 1}, "file", name),
		} {
			if st == fuse.OK {
				t.Errorf("%s of %q succeeded", op, name)
			}
		}
	}
	if data, err := os.ReadFile(secret); string(data) != "secret" {
		t.Errorf("the file outside is %q now, %v", data, err)
	}
}

// TestIDs uses node ids and handles that are not the client's.
func TestIDs(t *testing.T) {
	c := newClient(t, Options{})
	node, fh := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	other, _ := c.create(fuse.FUSE_ROOT_ID, "other", 0o600)
	for _, n := range []uint64{0, 2 << 40, ^uint64(0)} {
		if _, st := c.lookup(n, "file"); st != errno(unix.ESTALE) {
			t.Errorf("lookup in node %#x: %v", n, st)
		}
		if st := c.Rename(nil, &fuse.RenameIn{InHeader: c.head(1), Newdir: n}, "file", "x"); st != errno(unix.ESTALE) {
			t.Errorf("rename to node %#x: %v", n, st)
		}
	}
	if _, st := c.lookup(node, "file"); st != fuse.ENOTDIR {
		t.Errorf("lookup in a file: %v", st)
	}
	if _, st := c.read(other, fh, 10); st != fuse.EBADF {
		t.Errorf("read with another node's handle: %v", st)
	}
	if _, st := c.read(node, fh+100, 10); st != fuse.EBADF {
		t.Errorf("read with an unknown handle: %v", st)
	}
	if st := c.ReadDir(nil, &fuse.ReadIn{InHeader: c.head(node), Fh: fh, Size: 4096}, fuse.NewDirEntryList(make([]byte, 4096), 0)); st != fuse.EBADF {
		t.Errorf("readdir with a file's handle: %v", st)
	}
	c.Release(nil, &fuse.ReleaseIn{InHeader: c.head(node), Fh: fh})
	c.Release(nil, &fuse.ReleaseIn{InHeader: c.head(node), Fh: fh})
	if _, st := c.read(node, fh, 10); st != fuse.EBADF {
		t.Errorf("read after release: %v", st)
	}
	c.Forget(node, ^uint64(0))
	c.Forget(node, 1)
	c.Forget(fuse.FUSE_ROOT_ID, ^uint64(0))
	c.Forget(RootAlias, ^uint64(0))
	if _, st := c.open(node, unix.O_RDONLY); st != errno(unix.ESTALE) {
		t.Errorf("open after forget: %v", st)
	}
	if _, st := c.lookup(fuse.FUSE_ROOT_ID, "file"); st != fuse.OK {
		t.Errorf("lookup in the root after forgetting it: %v", st)
	}
}

func TestUnlinkedFile(t *testing.T) {
	c := newClient(t, Options{})
	node, fh := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	h := c.head(fuse.FUSE_ROOT_ID)
	if st := c.Unlink(nil, &h, "file"); st != fuse.OK {
		t.Fatal(st)
	}
	if st := c.write(node, fh, "data", 0); st != fuse.OK {
		t.Error("write:", st)
	}
	if s, st := c.read(node, fh, 10); s != "data" || st != fuse.OK {
		t.Errorf("read: %q, %v", s, st)
	}
	var out fuse.AttrOut
	in := fuse.SetAttrIn{}
	in.NodeId, in.Valid, in.Mode = node, fuse.FATTR_MODE, 0o640
	if st := c.SetAttr(nil, &in, &out); st != fuse.OK || out.Mode != unix.S_IFREG|0o640 || out.Nlink != 0 {
		t.Errorf("setattr: %v, mode %o, %d links", st, out.Mode, out.Nlink)
	}
	if fh2, st := c.open(node, unix.O_RDONLY); st != fuse.OK {
		t.Error("open:", st)
	} else if s, st := c.read(node, fh2, 10); s != "data" || st != fuse.OK {
		t.Errorf("read: %q, %v", s, st)
	}
}

// TestSymlinksAreNotFollowed has names be symbolic links out of the share.
func TestSymlinksAreNotFollowed(t *testing.T) {
	c := newClient(t, Options{})
	outside := filepath.Dir(c.dir)
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"dir": outside, "file": "../secret", "root": "/", "new": filepath.Join(outside, "made")} {
		if err := os.Symlink(target, filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dir", "file", "root"} {
		node := c.walk(name)
		if _, st := c.lookup(node, "secret"); st != fuse.ENOTDIR {
			t.Errorf("lookup through %s: %v", name, st)
		}
		if _, st := c.open(node, unix.O_RDWR); st != errno(unix.ELOOP) {
			t.Errorf("open of %s: %v", name, st)
		}
		var ao fuse.AttrOut
		in := fuse.SetAttrIn{}
		in.NodeId = node
		in.Valid, in.Mode = fuse.FATTR_MODE, 0o777
		if st := c.SetAttr(nil, &in, &ao); st != errno(unix.EOPNOTSUPP) {
			t.Errorf("chmod of %s: %v", name, st)
		}
		in.Valid = fuse.FATTR_SIZE
		if st := c.SetAttr(nil, &in, &ao); st != fuse.EINVAL {
			t.Errorf("truncate of %s: %v", name, st)
		}
		in.Valid, in.Uid = fuse.FATTR_UID, 12
		if st := c.SetAttr(nil, &in, &ao); st != fuse.OK || c.host(name).Uid != 12 {
			t.Errorf("chown of %s: %v, host has %d", name, st, c.host(name).Uid)
		}
	}
	var co fuse.CreateOut
	for _, name := range []string{"file", "new"} {
		if st := c.Create(nil, &fuse.CreateIn{InHeader: c.head(1), Flags: unix.O_RDWR | unix.O_TRUNC, Mode: 0o600}, name, &co); st != errno(unix.ESTALE) {
			t.Errorf("create through %s: %v", name, st)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(outside, &st); err != nil || st.Uid != 0 {
		t.Errorf("the directory outside belongs to %d now, %v", st.Uid, err)
	}
	if data, _ := os.ReadFile(filepath.Join(outside, "secret")); string(data) != "secret" {
		t.Errorf("the file outside is %q now", data)
	}
	if _, err := os.Lstat(filepath.Join(outside, "made")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made outside: %v", err)
	}
}

// TestSwapRace exchanges a directory with a symbolic link out of the share
// while entries of it are made, changed and removed.
func TestSwapRace(t *testing.T) {
	c := newClient(t, Options{})
	outside := filepath.Join(filepath.Dir(c.dir), "outside")
	for _, dir := range []string{outside, filepath.Join(c.dir, "a")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "victim"), []byte("victim"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(c.dir, "b")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		a, b := filepath.Join(c.dir, "a"), filepath.Join(c.dir, "b")
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	made := 0
	for range 2000 {
		dir, st := c.lookup(fuse.FUSE_ROOT_ID, "a")
		if st != fuse.OK {
			t.Fatal(st)
		}
		h := c.head(dir.NodeId)
		var eo fuse.EntryOut
		if st := c.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o700}, "made", &eo); st == fuse.OK {
			made++
			c.Forget(eo.NodeId, 1)
		}
		_ = c.Rmdir(nil, &h, "made")
		if v, st := c.lookup(dir.NodeId, "victim"); st == fuse.OK {
			if fh, st := c.open(v.NodeId, unix.O_WRONLY|unix.O_TRUNC); st == fuse.OK {
				_ = c.write(v.NodeId, fh, "changed", 0)
				c.Release(nil, &fuse.ReleaseIn{InHeader: c.head(v.NodeId), Fh: fh})
			}
			c.Forget(v.NodeId, 1)
		}
		c.Forget(dir.NodeId, 1)
	}
	close(stop)
	wg.Wait()
	if made == 0 {
		t.Error("the race never let the directory be found")
	}
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 1 {
		t.Errorf("outside has %d entries now, %v", len(list), err)
	}
	if data, _ := os.ReadFile(filepath.Join(outside, "victim")); string(data) != "victim" {
		t.Errorf("the file outside is %q now", data)
	}
}
