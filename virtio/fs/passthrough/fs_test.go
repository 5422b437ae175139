package passthrough

import (
	"bytes"
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

func TestOwnership(t *testing.T) {
	c := newClient(t, Options{})
	c.owner = fuse.Owner{Uid: 1000, Gid: 2000}
	sgid := filepath.Join(c.dir, "sgid")
	if err := os.Mkdir(sgid, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(sgid, 0, 3000), unix.Chmod(sgid, 0o2777)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		dir     string
		gid     uint32
		dirBits uint32
	}{{"", 2000, 0}, {"sgid", 3000, unix.S_ISGID}} {
		dir := uint64(fuse.FUSE_ROOT_ID)
		if d.dir != "" {
			dir = c.walk(d.dir)
		}
		h := c.head(dir)
		var eo fuse.EntryOut
		for op, st := range map[string]fuse.Status{
			"mknod":   c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFREG | 0o4777, Umask: 0o022}, "node", &eo),
			"mkdir":   c.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o777 | unix.S_ISVTX, Umask: 0o027}, "dir", &eo),
			"symlink": c.Symlink(nil, &h, "x", "link", &eo),
			"fifo":    c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFIFO | 0o666}, "fifo", &eo),
			"socket":  c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: unix.S_IFSOCK | 0o600}, "socket", &eo),
		} {
			if st != fuse.OK {
				t.Errorf("%s in %q: %v", op, d.dir, st)
			}
		}
		c.create(dir, "file", 0o6755)
		for name, mode := range map[string]uint32{
			"node":   unix.S_IFREG | 0o4755,
			"dir":    unix.S_IFDIR | 0o750 | unix.S_ISVTX | d.dirBits,
			"link":   unix.S_IFLNK | 0o777,
			"fifo":   unix.S_IFIFO | 0o666,
			"socket": unix.S_IFSOCK | 0o600,
			"file":   unix.S_IFREG | 0o6755,
		} {
			st := c.host(filepath.Join(d.dir, name))
			if st.Uid != 1000 || st.Gid != d.gid || st.Mode != mode {
				t.Errorf("%s in %q: owner %d:%d, mode %o; want 1000:%d, %o", name, d.dir, st.Uid, st.Gid, st.Mode, d.gid, mode)
			}
		}
	}
}

// TestNotOurs has a new object turn out to belong to someone else, as if the
// host had put another in its place: it is not given away.
func TestNotOurs(t *testing.T) {
	c := newClient(t, Options{})
	c.uid = 12345 // so what it makes seems to be someone else's
	c.owner = fuse.Owner{Uid: 1, Gid: 1}
	var eo fuse.EntryOut
	if st := c.Mkdir(nil, &fuse.MkdirIn{InHeader: c.head(1), Mode: 0o700}, "dir", &eo); st != errno(unix.ESTALE) {
		t.Errorf("mkdir: %v", st)
	}
	if st := c.host("dir"); st.Uid != 0 {
		t.Errorf("it was given to %d", st.Uid)
	}
}

func TestPrivilegeBits(t *testing.T) {
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, test := range []struct {
		name string
		do   func(c *client, node, fh uint64) fuse.Status
		mode uint32
	}{
		{"write by root", func(c *client, node, fh uint64) fuse.Status { return c.write(node, fh, "x", 0) }, 0o6755},
		{"write", func(c *client, node, fh uint64) fuse.Status {
			return c.write(node, fh, "x", fuse.WRITE_KILL_SUIDGID)
		}, 0o755},
		{"truncate", func(c *client, node, _ uint64) fuse.Status {
			in := fuse.SetAttrIn{}
			in.NodeId, in.Valid = node, fuse.FATTR_SIZE|fuse.FATTR_KILL_SUIDGID
			return c.SetAttr(nil, &in, &fuse.AttrOut{})
		}, 0o755},
		{"open with O_TRUNC", func(c *client, node, _ uint64) fuse.Status {
			return c.Open(nil, &fuse.OpenIn{InHeader: c.head(node), Flags: unix.O_WRONLY | unix.O_TRUNC, Mode: fuse.OPEN_KILL_SUIDGID}, &fuse.OpenOut{})
		}, 0o755},
		{"chown", func(c *client, node, _ uint64) fuse.Status {
			in := fuse.SetAttrIn{}
			in.NodeId, in.Valid, in.Uid = node, fuse.FATTR_UID, 7
			return c.SetAttr(nil, &in, &fuse.AttrOut{})
		}, 0o755},
		{"fallocate", func(c *client, node, fh uint64) fuse.Status {
			in := fuse.FallocateIn{InHeader: c.head(node), Fh: fh, Length: 10}
			in.Uid = 7
			return c.Fallocate(nil, &in)
		}, 0o755},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t, Options{})
			node, fh := c.create(fuse.FUSE_ROOT_ID, "file", 0o755)
			if err := unix.Chmod(filepath.Join(c.dir, "file"), 0o6755); err != nil {
				t.Fatal(err)
			}
			if st := c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: c.head(node), Size: uint32(len(caps))}, fileCaps, caps); st != fuse.OK {
				t.Fatal(st)
			}
			if st := test.do(c, node, fh); st != fuse.OK {
				t.Fatal(st)
			}
			if mode := c.host("file").Mode & 0o7777; mode != test.mode {
				t.Errorf("mode is %o, want %o", mode, test.mode)
			}
			h := c.head(node)
			if _, st := c.GetXAttr(nil, &h, fileCaps, make([]byte, 100)); st != fuse.ENODATA {
				t.Errorf("file capabilities: %v", st)
			}
		})
	}
}

func TestSpecialFiles(t *testing.T) {
	for _, devices := range []bool{false, true} {
		t.Run(fmt.Sprint(devices), func(t *testing.T) {
			c := newClient(t, Options{DeviceNodes: devices})
			h := c.head(fuse.FUSE_ROOT_ID)
			device := fuse.EPERM
			if devices {
				device = fuse.OK
			}
			for name, test := range map[string]struct {
				mode, dev uint32
				want      fuse.Status
			}{
				"whiteout": {unix.S_IFCHR, 0, fuse.OK},
				"null":     {unix.S_IFCHR, encodeDev(1, 3), device},
				"disk":     {unix.S_IFBLK, encodeDev(254, 256), device},
				"block0":   {unix.S_IFBLK, 0, device},
				"fifo":     {unix.S_IFIFO, 0, fuse.OK},
				"socket":   {unix.S_IFSOCK, 0, fuse.OK},
				"dir":      {unix.S_IFDIR, 0, fuse.EINVAL},
				"link":     {unix.S_IFLNK, 0, fuse.EINVAL},
			} {
				var eo fuse.EntryOut
				st := c.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: test.mode | 0o600, Rdev: test.dev}, name, &eo)
				if st != test.want {
					t.Errorf("mknod %s: %v, want %v", name, st, test.want)
				}
				if st != fuse.OK {
					continue
				}
				if eo.Rdev != test.dev || eo.Mode != test.mode|0o600 {
					t.Errorf("%s has device %#x, mode %o", name, eo.Rdev, eo.Mode)
				}
				// Were it opened, a FIFO would block for ever.
				if _, st := c.open(eo.NodeId, unix.O_RDONLY); st != errno(unix.ENXIO) {
					t.Errorf("open of %s: %v", name, st)
				}
			}
		})
	}
}

func TestXattrNames(t *testing.T) {
	c := newClient(t, Options{})
	node, _ := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	path := filepath.Join(c.dir, "file")
	if err := unix.Setxattr(path, "trusted.host", []byte("h"), 0); err != nil {
		t.Fatal(err)
	}
	h := c.head(node)
	for name, want := range map[string]fuse.Status{
		"user.a":                              fuse.OK,
		"trusted.overlay.opaque":              fuse.OK,
		"user.runv.trusted.spoof":             fuse.EPERM,
		"security.selinux":                    errno(unix.EOPNOTSUPP),
		"security.ima":                        errno(unix.EOPNOTSUPP),
		"system.other":                        errno(unix.EOPNOTSUPP),
		"trusted.":                            errno(unix.EOPNOTSUPP),
		"":                                    fuse.ERANGE,
		"user." + strings.Repeat("x", 251):    fuse.ERANGE,
		"trusted." + strings.Repeat("x", 240): fuse.ERANGE,
	} {
		if st := c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: 1}, name, []byte("v")); st != want {
			t.Errorf("set %q: %v, want %v", name, st, want)
		}
	}
	buf := make([]byte, 1000)
	n, st := c.ListXAttr(nil, &h, buf)
	got := strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00")
	if st != fuse.OK || len(got) != 2 || !(strings.Contains(string(buf[:n]), "user.a\x00") && strings.Contains(string(buf[:n]), "trusted.overlay.opaque\x00")) {
		t.Errorf("list: %q, %v", got, st)
	}
	if _, st := c.ListXAttr(nil, &h, buf[:3]); st != fuse.ERANGE {
		t.Errorf("list in 3 bytes: %v", st)
	}
	if _, st := c.GetXAttr(nil, &h, "trusted.host", buf); st != fuse.ENODATA {
		t.Errorf("the host's trusted attribute: %v", st)
	}
	if n, st := c.GetXAttr(nil, &h, "trusted.overlay.opaque", buf); st != fuse.OK || string(buf[:n]) != "v" {
		t.Errorf("get: %q, %v", buf[:n], st)
	}
	if n, err := unix.Getxattr(path, hostTrusted+"overlay.opaque", buf); err != nil || string(buf[:n]) != "v" {
		t.Errorf("on the host: %q, %v", buf[:n], err)
	}
	if st := c.RemoveXAttr(nil, &h, "trusted.overlay.opaque"); st != fuse.OK {
		t.Errorf("remove: %v", st)
	}
}

// TestXattrThread covers hosts before Linux 6.13.
func TestXattrThread(t *testing.T) {
	c := newClient(t, Options{})
	thread := newXattrThread(c.proc)
	defer thread.close()
	if thread.err != nil {
		t.Fatal(thread.err)
	}
	if err := os.Symlink("x", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	c.put("file", "")
	for _, x := range []xattrCalls{thread, xattrAt{c.proc}} {
		for name, want := range map[string]error{"file": nil, "link": unix.EPERM} {
			n, err := c.inodes.get(c.walk(name))
			if err != nil {
				t.Fatal(err)
			}
			defer c.inodes.put(n)
			if err := x.set(n, "user.a", []byte("v"), 0); err != want {
				t.Errorf("%T: set on %s: %v, want %v", x, name, err, want)
			}
			buf := make([]byte, 10)
			if size, err := x.get(n, "user.a", buf); want == nil && (err != nil || !bytes.Equal(buf[:size], []byte("v"))) {
				t.Errorf("%T: get on %s: %q, %v", x, name, buf[:size], err)
			}
			if size, err := x.list(n, buf); want == nil && (err != nil || string(buf[:size]) != "user.a\x00") {
				t.Errorf("%T: list on %s: %q, %v", x, name, buf[:size], err)
			}
			if err := x.remove(n, "user.a"); want == nil && err != nil {
				t.Errorf("%T: remove on %s: %v", x, name, err)
			}
		}
	}
}

func TestAppend(t *testing.T) {
	c := newClient(t, Options{})
	node, _ := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	fh, st := c.open(node, unix.O_RDWR|unix.O_APPEND)
	if st != fuse.OK {
		t.Fatal(st)
	}
	write := func(off uint64, data string, flags uint32) {
		in := fuse.WriteIn{InHeader: c.head(node), Fh: fh, Offset: off, Size: uint32(len(data)), WriteFlags: flags, Flags: unix.O_RDWR | unix.O_APPEND}
		if _, st := c.Write(nil, &in, []byte(data)); st != fuse.OK {
			t.Error(st)
		}
	}
	write(0, "one", 0)
	write(0, "two", 0)
	// Pages written back have their place, whatever descriptor they come by.
	write(0, "1", fuse.WRITE_CACHE)
	if s, _ := c.read(node, fh, 100); s != "1netwo" {
		t.Errorf("file is %q", s)
	}
}

func TestKeepCache(t *testing.T) {
	c := newClient(t, Options{})
	c.put("file", "a")
	node := c.walk("file")
	keep := func() bool {
		var out fuse.OpenOut
		if st := c.Open(nil, &fuse.OpenIn{InHeader: c.head(node)}, &out); st != fuse.OK {
			t.Fatal(st)
		}
		return out.OpenFlags&fuse.FOPEN_KEEP_CACHE != 0
	}
	if keep() {
		t.Error("cache kept at the first open")
	}
	if !keep() {
		t.Error("cache dropped though nothing changed")
	}
	c.put("file", "ab")
	if keep() {
		t.Error("cache kept though the host changed the file")
	}
}

func TestMapIno(t *testing.T) {
	seen := map[uint64]string{}
	for dev := range uint64(4) {
		for _, ino := range []uint64{1, 2, 1 << 40, 1<<48 - 1} {
			got, who := mapIno(dev, ino), fmt.Sprintf("%d:%#x", dev, ino)
			if other, ok := seen[got]; ok {
				t.Errorf("%s and %s are both %#x", who, other, got)
			}
			seen[got] = who
		}
	}
	for _, ino := range []uint64{1, 1<<48 | 1, ^uint64(0)} {
		if got := mapIno(0, ino); got != ino {
			t.Errorf("inode %#x of the root's device is %#x", ino, got)
		}
		if got := mapIno(3, ino); got>>inoBits != 3 {
			t.Errorf("inode %#x of device 3 is %#x", ino, got)
		}
	}
}

func TestDeviceNumbers(t *testing.T) {
	for _, d := range [][2]uint32{{0, 0}, {1, 3}, {8, 17}, {254, 255}, {259, 70000}, {4095, 1<<20 - 1}} {
		if got, want := decodeDev(encodeDev(d[0], d[1])), unix.Mkdev(d[0], d[1]); got != want {
			t.Errorf("%v: got %#x, want %#x", d, got, want)
		}
	}
}

func TestUndo(t *testing.T) {
	c := newClient(t, Options{})
	root, err := c.inodes.get(fuse.FUSE_ROOT_ID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.inodes.put(root)
	c.put("ours", "")
	c.put("theirs", "")
	if err := os.Mkdir(filepath.Join(c.dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, of := range map[string]string{"ours": "ours", "dir": "dir", "theirs": "."} {
		var st unix.Statx_t
		if err := statEntry(root.fd, of, &st); err != nil {
			t.Fatal(err)
		}
		c.undo(root, name, &st)
	}
	list, err := os.ReadDir(c.dir)
	if err != nil || len(list) != 1 || list[0].Name() != "theirs" {
		t.Errorf("left are %v, %v", list, err)
	}
}

// TestFileSizeLimit has a write exceed RLIMIT_FSIZE, which comes with a signal
// that would end the process.
func TestFileSizeLimit(t *testing.T) {
	c := newClient(t, Options{})
	node, fh := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 30, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	in := fuse.WriteIn{InHeader: c.head(node), Fh: fh, Offset: 1 << 30, Size: 1}
	if _, st := c.Write(nil, &in, []byte("x")); st != errno(unix.EFBIG) {
		t.Errorf("got %v", st)
	}
}
