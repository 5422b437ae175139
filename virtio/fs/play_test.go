package fs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/virtiotest"
)

// FuzzDevice plays a script to the whole device: rings, registers, descriptors
// and requests at any moment. What is beside the share stays as it is.
func FuzzDevice(f *testing.F) {
	request := func(m []byte) []byte { // one readable buffer, one writable
		return append(append([]byte{4, 1, 1, byte(len(m))}, m...), 1, 0x00, 0x04)
	}
	f.Add([]byte{})
	f.Add(request(message(opStatfs, 1)))
	f.Add(append(request(message(opLookup, 1, "file")), request(message(opForget, 2, uint64(1)))...))
	f.Add(append(request(message(opLookup, 1, "../secret")), 3, 14, 1))
	f.Add([]byte{12, 1, 0xff, 0x7f, 2, 0, 3})                     // the index jumps
	f.Add([]byte{9, 1, 0, 0, 0, 3, 0, 1, 0, 0, 3, 0, 11, 1, 0})   // a cycle
	f.Add([]byte{10, 1, 1, 3, 0, 1, 0, 0, 3, 4, 0, 0, 16, 14, 1}) // nested indirect

	base := f.TempDir()
	secret := filepath.Join(base, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o640); err != nil {
		f.Fatal(err)
	}
	var before unix.Stat_t
	if err := unix.Lstat(secret, &before); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		share := filepath.Join(base, "share")
		if err := os.Mkdir(share, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(share)
		if err := os.WriteFile(filepath.Join(share, "file"), []byte("file"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../secret", filepath.Join(share, "out")); err != nil {
			t.Fatal(err)
		}
		d, err := New(Options{Tag: "t", Root: openDir(t, share), MaxDescriptors: 64, MaxInodes: 100, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		virtiotest.Play(t, d, virtiotest.Options{QueueSize: 16}, script)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if n := d.server.panics.Load(); n != 0 {
			t.Errorf("%d panics", n)
		}
		var after unix.Stat_t
		if err := unix.Lstat(secret, &after); err != nil {
			t.Fatal(err)
		}
		before.Atim, after.Atim = unix.Timespec{}, unix.Timespec{}
		if after != before {
			t.Errorf("the file beside the share was %+v, is %+v", before, after)
		}
	})
}
