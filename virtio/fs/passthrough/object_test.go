package passthrough

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

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

// TestUnmapped has a mount on which the server's own ids are no client's.
func TestUnmapped(t *testing.T) {
	c := newClient(t, Options{})
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, c.dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		unmapped Unmapped
		owner    fuse.Owner
		want     fuse.Status
	}{
		{Unmapped{}, fuse.Owner{}, fuse.OK},
		{Unmapped{UID: true, GID: true}, fuse.Owner{Uid: 1, Gid: 1}, fuse.OK},
		{Unmapped{UID: true}, fuse.Owner{Uid: 1, Gid: 0}, fuse.OK},
		{Unmapped{UID: true}, fuse.Owner{Uid: 0, Gid: 1}, errno(unix.EOVERFLOW)},
		{Unmapped{GID: true}, fuse.Owner{Uid: 1, Gid: 0}, errno(unix.EOVERFLOW)},
	} {
		c.unmapped = map[uint64]Unmapped{st.Mnt_id: tt.unmapped, st.Mnt_id + 1: {UID: true, GID: true}}
		c.owner = tt.owner
		var eo fuse.EntryOut
		if st := c.Mkdir(nil, &fuse.MkdirIn{InHeader: c.head(1), Mode: 0o700}, "dir", &eo); st != tt.want {
			t.Errorf("mkdir of %v with %+v: %v; want %v", tt.owner, tt.unmapped, st, tt.want)
		} else if st == fuse.OK {
			os.Remove(filepath.Join(c.dir, "dir"))
		}
	}
	c.owner = fuse.Owner{Uid: 1, Gid: 1}
	node, _ := c.create(fuse.FUSE_ROOT_ID, "file", 0o600)
	for _, tt := range []struct {
		unmapped Unmapped
		valid    uint32
		want     fuse.Status
	}{
		{Unmapped{UID: true}, fuse.FATTR_UID, errno(unix.EINVAL)},
		{Unmapped{GID: true}, fuse.FATTR_UID | fuse.FATTR_GID, errno(unix.EINVAL)},
		{Unmapped{GID: true}, fuse.FATTR_UID, fuse.OK},
		{Unmapped{UID: true}, fuse.FATTR_MODE, fuse.OK},
	} {
		c.unmapped = map[uint64]Unmapped{st.Mnt_id: tt.unmapped}
		var ao fuse.AttrOut
		in := &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: c.head(node), Valid: tt.valid, Mode: 0o600}}
		if st := c.SetAttr(nil, in, &ao); st != tt.want {
			t.Errorf("setattr %#x to root with %+v: %v; want %v", tt.valid, tt.unmapped, st, tt.want)
		}
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

// TestXattrCalls covers hosts before Linux 6.13.
func TestXattrCalls(t *testing.T) {
	c := newClient(t, Options{})
	thread := newXattrThread(c.proc)
	defer thread.close()
	if thread.err != nil {
		t.Fatal(thread.err)
	}
	if err := os.Symlink("x", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(c.dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(c.dir, "dir"), 0); err != nil {
		t.Fatal(err)
	}
	c.put("file", "")
	for _, x := range []xattrCalls{thread, xattrOpen{c.FS, thread}, xattrAt{c.proc}} {
		for name, want := range map[string]error{"file": nil, "dir": nil, "link": unix.EPERM, "fifo": unix.EPERM} {
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

func TestXattrThreadClose(t *testing.T) {
	c := newClient(t, Options{})
	thread := newXattrThread(c.proc)
	thread.close()
	thread.close()
	if _, err := thread.get(c.inodes.root, "user.a", nil); err != unix.EBADF {
		t.Errorf("get after close: %v", err)
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

// TestUndoLog has a guest fill the directory that is to be removed, as often as
// it likes.
func TestUndoLog(t *testing.T) {
	var log bytes.Buffer
	c := newClient(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	root, err := c.inodes.get(fuse.FUSE_ROOT_ID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.inodes.put(root)
	if err := os.MkdirAll(filepath.Join(c.dir, "dir", "more"), 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Statx_t
	if err := statEntry(root.fd, "dir", &st); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		c.undo(root, "dir", &st)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines are logged, want 1:\n%.500s", n, &log)
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
