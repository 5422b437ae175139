package fs

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/fs/fstest"
)

// mount has the kernel of this machine be the client of a device's server,
// through /dev/fuse instead of a virtqueue, and returns the mount point.
func mount(tb testing.TB, opts Options) string {
	tb.Helper()
	opts.Tag = "test"
	d, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("/dev/fuse: %v", err)
	}
	mnt := tb.TempDir()
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%d", dev, maxWrite)
	if err := unix.Mount("test", mnt, "fuse", 0, data); err != nil {
		tb.Fatalf("mounting a FUSE file system, which needs root: %v", err)
	}
	done := make(chan error)
	for range 4 {
		go func() { done <- bridge(d.server, dev) }()
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			tb.Errorf("unmount: %v", err)
		}
		for range 4 {
			if err := <-done; err != nil {
				tb.Error(err)
			}
		}
		unix.Close(dev)
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	noPoll(tb, mnt)
	return mnt
}

// noPoll has the kernel learn that there is no POLL. Otherwise it would ask
// when the Go runtime adds an open file to its poller, on a thread that the
// reply needs.
func noPoll(tb testing.TB, mnt string) {
	fd, err := unix.Open(mnt, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == unix.EROFS {
		return
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		tb.Fatal(err)
	}
}

// bridge serves requests from /dev/fuse until it is unmounted.
func bridge(s *server, dev int) error {
	in := make([]byte, maxWrite+4096)
	out := make([]byte, maxWrite+4096)
	r := &request{commit: func(f func()) { f() }}
	for {
		n, err := unix.Read(dev, in)
		switch err {
		case nil:
		case unix.ENODEV, unix.ECONNABORTED: // unmounted; the latter before INIT was answered
			return nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT:
			continue
		default:
			return fmt.Errorf("read of /dev/fuse: %w", err)
		}
		// A header of its own, then pages, is what a driver makes of it.
		r.readable = pages(in[:n], inHeaderSize)
		r.writable = pages(out, outHeaderSize)
		if n = s.handle(r); n == 0 {
			continue
		}
		if _, err := unix.Write(dev, out[:n]); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("write of %x to /dev/fuse: %w", out[:min(n, 64)], err)
		}
	}
}

func pages(b []byte, first int) [][]byte {
	list := [][]byte{b[:first]}
	for b = b[first:]; len(b) > 0; {
		n := min(len(b), 4096)
		list = append(list, b[:n])
		b = b[n:]
	}
	return list
}

func openDir(tb testing.TB, dir string) *os.File {
	tb.Helper()
	f, err := os.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

// TestPOSIX runs the conformance tests.
func TestPOSIX(t *testing.T) {
	fstest.UseLargeXattrs(t)
	fstest.POSIX(t, func(t *testing.T) string {
		return mount(t, Options{Root: openDir(t, t.TempDir())})
	})
}
