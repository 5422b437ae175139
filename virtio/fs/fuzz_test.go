package fs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FuzzMessage sends requests: first is split off the front of data with each
// message's length before it, so that a sequence can use what it got. Nothing
// outside of the share may change, and nothing may panic.
func FuzzMessage(f *testing.F) {
	seed := func(messages ...[]byte) {
		var data []byte
		for _, m := range messages {
			data = binary.LittleEndian.AppendUint16(data, uint16(len(m)))
			data = append(data, m...)
		}
		f.Add(data, uint16(200))
	}
	createIn := body(fuse.CreateIn{Flags: unix.O_RDWR, Mode: 0o644})
	made := message(opCreate, 1, createIn, "made") // node 2, handle 1
	opened := message(opOpendir, 1, 8)
	seed(message(opLookup, 1, "file"), message(opForget, 2, uint64(1)))
	seed(message(opLookup, 1, "../secret"), message(opUnlink, 1, "../secret"), message(opUnlink, 1, "secret"))
	seed(message(opLookup, 1, "out"), message(opReadlink, 2), message(opLookup, 2, "secret"))
	seed(made, message(opGetattr, 2, 16), message(opSetattr, 2, body(fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{Valid: 0x3f}})))
	seed(message(opSymlink, 1, "new", "/etc/passwd"), message(opOpen, 2, body(fuse.OpenIn{Flags: unix.O_RDWR})))
	seed(message(opMknod, 1, body(fuse.MknodIn{Mode: unix.S_IFIFO | 0o600}), "fifo"), message(opOpen, 2, body(fuse.OpenIn{})))
	seed(message(opMkdir, 1, body(fuse.MkdirIn{Mode: 0o755}), "dir"), message(opRmdir, 1, "dir"), message(opMkdir, 2, body(fuse.MkdirIn{}), "x"))
	seed(message(opRename, 1, uint64(1), "file", "../file"), message(opRename2, 1, body(fuse.RenameIn{Newdir: 1, Flags: unix.RENAME_EXCHANGE}), "file", "out"))
	seed(made, message(opLink, 1, body(fuse.LinkIn{Oldnodeid: 2}), "second"))
	seed(made, message(opWrite, 2, body(fuse.WriteIn{Fh: 1, Size: 3}), []byte("abc")), message(opRead, 2, body(fuse.ReadIn{Fh: 1, Size: 100})))
	seed(made, message(opFlush, 2, body(fuse.FlushIn{Fh: 1})), message(opFsync, 2, body(fuse.FsyncIn{Fh: 1})), message(opRelease, 2, body(fuse.ReleaseIn{Fh: 1})))
	seed(message(opStatfs, 1), message(opSyncfs, 1, uint64(0)), message(opDestroy, 1))
	seed(made, message(opSetxattr, 2, body(fuse.SetXAttrIn{Size: 1}), "user.a", []byte("x")), message(opGetxattr, 2, body(fuse.GetXAttrIn{Size: 100}), "user.a"),
		message(opListxattr, 2, body(fuse.GetXAttrIn{Size: 100})), message(opRemovexattr, 2, "user.a"))
	seed(initMessage(), message(opInterrupt, 0, uint64(1)))
	seed(opened, message(opReaddir, 1, body(fuse.ReadIn{Fh: 1, Size: 100})), message(opReaddirplus, 1, body(fuse.ReadIn{Fh: 1, Size: 180})),
		message(opFsyncdir, 1, body(fuse.FsyncIn{Fh: 1})), message(opReleasedir, 1, body(fuse.ReleaseIn{Fh: 1})))
	seed(message(opBatchForget, 0, uint32(1), uint32(0), uint64(1), uint64(1)), message(opIoctl, 1, body(fuse.IoctlIn{OutSize: 1 << 30})))
	seed(made, message(opFallocate, 2, body(fuse.FallocateIn{Fh: 1, Length: 4096})), message(opLseek, 2, body(fuse.LseekIn{Fh: 1, Whence: unix.SEEK_HOLE})),
		message(opCopyFileRange, 2, body(fuse.CopyFileRangeIn{FhIn: 1, NodeIdOut: 2, FhOut: 1, OffOut: 8192, Len: 100})))
	seed(message(opTmpfile, 1, createIn, "/"), message(opStatx, 2, body(fuse.StatxIn{SxMask: 0xfff})), message(opLink, 1, body(fuse.LinkIn{Oldnodeid: 2}), "named"))

	base := f.TempDir()
	secret := filepath.Join(base, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o640); err != nil {
		f.Fatal(err)
	}
	var before unix.Stat_t
	if err := unix.Lstat(secret, &before); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, room uint16) {
		share := filepath.Join(base, "share")
		if err := os.Mkdir(share, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(share)
		if err := os.WriteFile(filepath.Join(share, "file"), []byte("file"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..", filepath.Join(share, "out")); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(share)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		d, err := New(Options{Tag: "t", Root: root, MaxDescriptors: 64, MaxInodes: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		r := &request{commit: func(f func()) { f() }}
		send := func(m []byte, room int) {
			r.readable, r.writable = pages(m, min(len(m), inHeaderSize)), [][]byte{make([]byte, min(room, 16)), make([]byte, max(room-16, 0))}
			n := d.server.handle(r)
			if n > room || n != 0 && n < outHeaderSize {
				t.Errorf("reply of %d bytes in room for %d", n, room)
			}
			if d.server.panics.Load() != 0 {
				t.Fatal("panic")
			}
		}
		send(initMessage(), 200)
		for len(data) >= 2 {
			n := min(int(binary.LittleEndian.Uint16(data)), len(data)-2)
			m := append([]byte(nil), data[2:2+n]...)
			data = data[2+n:]
			if tooLarge(m) {
				continue
			}
			if room&1 == 0 && len(m) >= 4 {
				binary.LittleEndian.PutUint32(m, uint32(len(m)))
			}
			send(m, int(room))
		}
		var after unix.Stat_t
		if err := unix.Lstat(secret, &after); err != nil {
			t.Fatal("the file outside:", err)
		}
		if after.Atim = before.Atim; after != before {
			t.Errorf("the file outside is %+v, was %+v", after, before)
		}
		if list, err := os.ReadDir(base); err != nil || len(list) != 2 {
			t.Errorf("there are %d entries outside, %v", len(list), err)
		}
	})
}

// tooLarge reports whether a request allocates space for real, which the disk
// of a test machine should not have to bear, or waits for all of its disks.
func tooLarge(m []byte) bool {
	if len(m) < inHeaderSize {
		return false
	}
	switch binary.LittleEndian.Uint32(m[4:]) {
	case opFallocate:
		return len(m) >= 72 && binary.LittleEndian.Uint64(m[56:]) > 1<<20
	case opSyncfs, opFsync, opFsyncdir:
		return true
	}
	return false
}
