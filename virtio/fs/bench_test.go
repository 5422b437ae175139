package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// benchFile has a server with a file of one MiB, open as handle 1 of node 2.
func benchFile(b *testing.B) (*server, *request) {
	b.Helper()
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, maxWrite), 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := New(Options{Tag: "t", Root: openDir(b, dir)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	r := &request{commit: func(f func()) { f() }}
	for _, m := range [][]byte{initMessage(), message(opLookup, 1, "file"), message(opOpen, 2, body(fuse.OpenIn{Flags: unix.O_RDWR}))} {
		serve(b, d.server, r, pages(m, inHeaderSize), pages(make([]byte, 256), outHeaderSize))
	}
	return d.server, r
}

func serve(b *testing.B, s *server, r *request, m, out [][]byte) {
	r.readable, r.writable = m, out
	if n := s.handle(r); n < outHeaderSize || out[0][4] != 0 {
		b.Fatalf("opcode %d: reply of %d bytes, %x", m[0][4], n, out[0])
	}
}

func BenchmarkRead(b *testing.B) {
	s, r := benchFile(b)
	m := pages(message(opRead, 2, body(fuse.ReadIn{Fh: 1, Size: maxWrite})), inHeaderSize)
	out := pages(make([]byte, outHeaderSize+maxWrite), outHeaderSize)
	b.SetBytes(maxWrite)
	for b.Loop() {
		serve(b, s, r, m, out)
	}
}

func BenchmarkWrite(b *testing.B) {
	s, r := benchFile(b)
	m := pages(message(opWrite, 2, body(fuse.WriteIn{Fh: 1, Size: maxWrite}), maxWrite), inHeaderSize)
	out := pages(make([]byte, 256), outHeaderSize)
	b.SetBytes(maxWrite)
	for b.Loop() {
		serve(b, s, r, m, out)
	}
}

func BenchmarkGetattr(b *testing.B) {
	s, r := benchFile(b)
	m := pages(message(opGetattr, 2, 16), inHeaderSize)
	out := pages(make([]byte, 256), outHeaderSize)
	for b.Loop() {
		serve(b, s, r, m, out)
	}
}

func BenchmarkLookup(b *testing.B) {
	s, r := benchFile(b)
	m := pages(message(opLookup, 1, "file"), inHeaderSize)
	out := pages(make([]byte, 256), outHeaderSize)
	for b.Loop() {
		serve(b, s, r, m, out)
	}
}

// BenchmarkNative is what the host's system calls for the same take.
func BenchmarkNative(b *testing.B) {
	path := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, maxWrite), 0o600); err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, maxWrite)
	for name, call := range map[string]func() error{
		"Read":  func() error { _, err := unix.Pread(fd, buf, 0); return err },
		"Write": func() error { _, err := unix.Pwrite(fd, buf, 0); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(maxWrite)
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Stat", func(b *testing.B) {
		var st unix.Stat_t
		for b.Loop() {
			if err := unix.Lstat(path, &st); err != nil {
				b.Fatal(err)
			}
		}
	})
}
