package hostile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// secretSize is the size of every file outside of the shares, and of none
// inside; guests know it.
const secretSize = 31337

// newTree makes the directory of a case:
//
//	rw, ro      the two shares
//	secret      what links in the shares lead to
//	neighbour/  what belongs to others
func newTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, size int, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o644))
		must(t, os.Chmod(path, mode))
	}
	write("secret", secretSize, 0o600)
	write("neighbour/file", secretSize, 0o644)
	write("neighbour/sub/file", secretSize, 0o644)
	for _, share := range []string{"rw", "ro"} {
		write(share+"/file", 64<<10, 0o644)
		write(share+"/dir/sub/file", 10, 0o644)
		write(share+"/swap/file", 10, 0o644)
		for name, target := range map[string]string{
			"link": "../secret", "link.dir": "../neighbour", "link.abs": filepath.Join(dir, "secret"),
			"link.root": "/", "swap.link": "../neighbour",
		} {
			must(t, os.Symlink(target, filepath.Join(dir, share, name)))
		}
		write(share+"/"+shareFile, 10, 0o755|os.ModeSetuid)
		// cap_net_raw=ep, version 2 of struct vfs_cap_data.
		must(t, unix.Setxattr(filepath.Join(dir, share, shareFile), "security.capability",
			binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(
				binary.LittleEndian.AppendUint32(nil, 0x02000001), 1<<13), 0), 0))
		must(t, unix.Mkfifo(filepath.Join(dir, share, "fifo"), 0o644))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, share, "socket"), Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		must(t, l.Close())
	}
	return dir
}

// specialFiles counts device nodes and FIFOs below dir.
func specialFiles(dir string) (n int) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
			n++
		}
		return nil
	})
	return n
}

// checksum describes all of a tree but the directory named except: types,
// modes, owners, sizes, times and contents.
func checksum(t testing.TB, dir, except string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if except != "" && path == filepath.Join(dir, except) {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		s := fmt.Sprintf("%o %d:%d %d %d %v", st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Mtim)
		if path == dir {
			s = ""
		}
		switch d.Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %x", sha256.Sum256(data))
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			s += " " + target
		}
		sums[path] = s
		return nil
	}))
	return sums
}

// difference lists what two checksums do not agree on.
func difference(before, after map[string]string) (diff []string) {
	for path, s := range before {
		if after[path] != s {
			diff = append(diff, fmt.Sprintf("%s was %q, is %q", path, s, after[path]))
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			diff = append(diff, path+" is new")
		}
	}
	return diff
}

// watcher sees every open, read, change, creation and removal in a tree, the
// shares' own contents left out.
type watcher struct {
	fd   int
	dirs map[int32]string
}

func watch(t testing.TB, dir string) *watcher {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	w := &watcher{fd: fd, dirs: map[int32]string{}}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if filepath.Dir(path) == dir && (d.Name() == "rw" || d.Name() == "ro") {
			return fs.SkipDir
		}
		wd, err := unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS)
		w.dirs[int32(wd)] = path
		return err
	}))
	w.seen(t) // this walk
	return w
}

// seen returns and forgets what happened.
func (w *watcher) seen(t testing.TB) []string {
	t.Helper()
	var events []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if err == unix.EAGAIN || err == nil && n <= 0 {
			return events
		}
		must(t, err)
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
			b = b[unix.SizeofInotifyEvent+size:]
			// That the shares' own directories are opened and change is what
			// they are for.
			if mask&unix.IN_ISDIR != 0 && (name == "rw" || name == "ro") {
				continue
			}
			events = append(events, fmt.Sprintf("%s: %#x", filepath.Join(w.dirs[wd], name), mask))
		}
	}
}

func (w *watcher) close() { unix.Close(w.fd) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
