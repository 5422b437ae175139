package passthrough

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// again has the client of c go on with another file system for dir.
func (c *client) again(dir string, opts Options) (*client, error) {
	c.t.Helper()
	b, err := c.Save()
	if err != nil {
		return nil, err
	}
	next := &client{FS: newFS(c.t, dir, opts), t: c.t, dir: dir}
	return next, next.Restore(b)
}

func (c *client) file(path, contents string) {
	c.t.Helper()
	full := filepath.Join(c.dir, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(contents), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// TestRestore has a client go on in the same directory and in a copy of it.
func TestRestore(t *testing.T) {
	c := newClient(t, Options{})
	c.file("a/b/file", "contents")
	c.file("a/other", "other")
	if err := os.Symlink("a/b", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	a, b, file := c.walk("a"), c.walk("a", "b"), c.walk("a", "b", "file")
	c.walk("a", "b", "file")
	other, link := c.walk("a", "other"), c.walk("link")
	read, st := c.open(file, unix.O_RDONLY)
	if st != fuse.OK {
		t.Fatal(st)
	}
	written, fh := c.create(a, "new", 0o600)
	if _, st := c.Writev(nil, &fuse.WriteIn{InHeader: c.head(written), Fh: fh, Size: 3}, [][]byte{[]byte("new")}); st != fuse.OK {
		t.Fatal(st)
	}
	var list fuse.OpenOut
	if st := c.OpenDir(nil, &fuse.OpenIn{InHeader: c.head(a)}, &list); st != fuse.OK {
		t.Fatal(st)
	}
	// Renamed behind the table's back, as the client's kernel does not look
	// it up again.
	rename := fuse.RenameIn{InHeader: c.head(a), Newdir: b}
	if st := c.Rename(nil, &rename, "other", "moved"); st != fuse.OK {
		t.Fatal(st)
	}
	elsewhere := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", c.dir, elsewhere).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, dir := range map[string]string{"the same": c.dir, "a copy": elsewhere} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			next, err := c.again(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if list := next.Descriptors(); len(list) != 1+next.inodes.open+len(next.handles.byID) {
				t.Errorf("%d descriptors: %v", len(list), list)
			}
			if got, st := next.read(file, read, 100); got != "contents" || st != fuse.OK {
				t.Errorf("read: %q, %v", got, st)
			}
			if got, st := next.read(written, fh, 100); got != "new" || st != fuse.OK {
				t.Errorf("read of the new file: %q, %v", got, st)
			}
			if _, st := next.Writev(nil, &fuse.WriteIn{InHeader: next.head(written), Fh: fh, Size: 3, Offset: 3}, [][]byte{[]byte("er!")}); st != fuse.OK {
				t.Errorf("write: %v", st)
			}
			data, err := os.ReadFile(filepath.Join(dir, "a/new"))
			if err != nil || string(data) != "newer!" {
				t.Errorf("written: %q, %v", data, err)
			}
			must(t, os.Truncate(filepath.Join(dir, "a/new"), 3)) // for the other one
			if _, st := next.Writev(nil, &fuse.WriteIn{InHeader: next.head(file), Fh: read, Size: 1}, [][]byte{{1}}); st == fuse.OK {
				t.Error("a file that was open for reading can be written")
			}
			entries := fuse.NewDirEntryList(make([]byte, 4096), 0)
			in := fuse.ReadIn{InHeader: next.head(a), Fh: list.Fh, Size: 4096}
			if st := next.ReadDir(nil, &in, entries); st != fuse.OK {
				t.Errorf("open directory: %v", st)
			}
			var attr fuse.AttrOut
			if st := next.GetAttr(nil, &fuse.GetAttrIn{InHeader: next.head(other)}, &attr); st != fuse.OK || attr.Size != 5 {
				t.Errorf("renamed file: %v, %d bytes", st, attr.Size)
			}
			head := next.head(link)
			if target, st := next.Readlink(nil, &head); string(target) != "a/b" || st != fuse.OK {
				t.Errorf("link: %q, %v", target, st)
			}
			if got := next.walk("a", "b", "file"); got != file {
				t.Errorf("the file has node id %d; want %d", got, file)
			}
			// New ids are those of nothing else.
			next.file("brand-new", "")
			if got := next.walk("brand-new"); got <= link || got == written {
				t.Errorf("a new file has node id %d", got)
			}
			// What the client held, it can let go.
			next.Forget(file, 3)
			next.Release(nil, &fuse.ReleaseIn{InHeader: next.head(file), Fh: read})
			if _, st := next.read(file, read, 1); st == fuse.OK {
				t.Error("a handle outlives its release")
			}
			if _, err := next.inodes.get(file); err == nil {
				t.Error("an inode outlives its references")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnsaved: what would be lost is named.
func TestUnsaved(t *testing.T) {
	for name, f := range map[string]func(c *client, node uint64){
		"deleted":  func(c *client, _ uint64) { must(t, os.Remove(filepath.Join(c.dir, "d/file"))) },
		"replaced": func(c *client, _ uint64) { c.file("new", ""); must(t, os.Rename(c.dir+"/new", c.dir+"/d/file")) },
		"moved out": func(c *client, _ uint64) {
			must(t, os.Rename(filepath.Join(c.dir, "d/file"), filepath.Join(filepath.Dir(c.dir), "file")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, Options{})
			c.file("d/file", "x")
			node := c.walk("d", "file")
			fh, st := c.open(node, unix.O_RDONLY)
			if st != fuse.OK {
				t.Fatal(st)
			}
			f(c, node)
			if _, err := c.Save(); !errors.Is(err, ErrUnsaved) || !strings.Contains(err.Error(), "file") {
				t.Errorf("saved: %v", err)
			}
			// It goes on, and once it is closed there is nothing to lose.
			if got, st := c.read(node, fh, 1); got != "x" || st != fuse.OK {
				t.Errorf("read: %q, %v", got, st)
			}
			c.Release(nil, &fuse.ReleaseIn{InHeader: c.head(node), Fh: fh})
			next, err := c.again(c.dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := next.inodes.get(node); err != unix.ESTALE {
				t.Errorf("an object that is gone: %v", err)
			}
			next.Forget(node, 1)
		})
	}
}

// TestRestoreChanged: a share that is not what the client knows is refused.
func TestRestoreChanged(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(dir string) error
		opts   Options
		want   string
	}{
		"gone":   {func(dir string) error { return os.Remove(dir + "/file") }, Options{}, "no such file"},
		"longer": {func(dir string) error { return os.WriteFile(dir+"/file", []byte("longer"), 0o644) }, Options{}, "has 6 bytes now"},
		"a link": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/file"), os.Symlink("/etc/passwd", dir+"/file"))
		}, Options{}, "another type"},
		"read-only": {func(string) error { return nil }, Options{ReadOnly: true}, "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, Options{})
			c.file("file", "x")
			node := c.walk("file")
			if _, st := c.open(node, unix.O_RDWR); st != fuse.OK {
				t.Fatal(st)
			}
			b, err := c.Save()
			must(t, err)
			must(t, tc.change(c.dir))
			next := newFS(t, c.dir, tc.opts)
			if err := next.Restore(b); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("restored: %v; want %q", err, tc.want)
			}
			if next.inodes.open != 1 || len(next.handles.byID) != 0 {
				t.Errorf("%d descriptors and %d handles are left", next.inodes.open, len(next.handles.byID))
			}
		})
	}
}

// TestRestoreMany restores more inodes than there may be descriptors.
func TestRestoreMany(t *testing.T) {
	opts := Options{MaxDescriptors: 128}
	c := newClient(t, opts)
	var nodes []uint64
	for i := range 300 {
		c.file(fmt.Sprintf("d%d/f%d", i%10, i), fmt.Sprint(i))
		nodes = append(nodes, c.walk(fmt.Sprintf("d%d", i%10), fmt.Sprintf("f%d", i)))
	}
	next, err := c.again(c.dir, opts)
	must(t, err)
	for i, node := range nodes {
		fh, st := next.open(node, unix.O_RDONLY)
		if got, _ := next.read(node, fh, 10); st != fuse.OK || got != fmt.Sprint(i) {
			t.Fatalf("file %d: %v, %q", i, st, got)
		}
		next.Release(nil, &fuse.ReleaseIn{InHeader: next.head(node), Fh: fh})
	}
	if next.inodes.open > next.inodes.hard {
		t.Errorf("%d descriptors", next.inodes.open)
	}
}

func FuzzSession(f *testing.F) {
	whole := (&session{
		nextInode: 9, nextHandle: 4, rootLookups: 1,
		inodes:  []savedInode{{id: 2, lookups: 3, typ: unix.S_IFDIR, path: "a", mount: true}, {id: 8, typ: unix.S_IFREG, size: 5, path: "../../etc/passwd"}},
		handles: []savedHandle{{id: 1, node: 1, dir: true}, {id: 3, node: 8, flags: unix.O_RDWR}},
	}).encode()
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSession(b, 1000, 100)
		if err != nil {
			return
		}
		if again, err := decodeSession(s.encode(), 1000, 100); err != nil || len(again.inodes) != len(s.inodes) || len(again.handles) != len(s.handles) {
			t.Fatalf("not what was encoded: %v", err)
		}
		// No path leads out of the share.
		next := newClient(t, Options{})
		if next.Restore(b) == nil {
			for _, n := range next.inodes.byID {
				if n.fd < 0 {
					continue
				}
				if at, err := next.pathOf(n.fd); err != nil || at != next.dir && !strings.HasPrefix(at, next.dir+"/") {
					t.Fatalf("an inode is at %q: %v", at, err)
				}
			}
		}
	})
}
