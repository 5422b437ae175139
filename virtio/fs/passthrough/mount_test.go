package passthrough

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// capabilities are those the virtio device negotiates.
const capabilities = fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_READDIRPLUS_AUTO |
	fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_ASYNC_DIO

// mount serves a new directory through the kernel of this machine and returns
// the directory and the mount point.
func mount(t testing.TB, opts Options) (dir, mnt string) {
	t.Helper()
	dir, mnt = t.TempDir(), t.TempDir()
	f := newFS(t, dir, opts)
	server, err := fuse.NewServer(f, mnt, &fuse.MountOptions{
		AllowOther:           true,
		DirectMountStrict:    true,
		DirectMountFlags:     0xC0ED0000, // MS_MGC_VAL: neither nosuid nor nodev
		Options:              []string{"default_permissions"},
		MaxWrite:             1 << 20,
		EnableAcl:            true,
		EnableSymlinkCaching: true,
		ExtraCapabilities:    capabilities,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT,
	})
	if err != nil {
		t.Fatalf("mounting a FUSE file system, which needs root and /dev/fuse: %v", err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("Unmount: %v", err)
		}
	})
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return dir, mnt
}

func newFS(t testing.TB, dir string, opts Options) *FS {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	opts.Root = root
	f, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return f
}
