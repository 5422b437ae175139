//go:build integration

package faults

import (
	"context"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// failingFile is a file of which one operation fails, or is not answered before
// the channel is closed.
type failingFile struct {
	fs.Inode
	read, write, sync syscall.Errno
	stuck             <-chan struct{}
}

var (
	_ fs.NodeOpener    = (*failingFile)(nil)
	_ fs.NodeReader    = (*failingFile)(nil)
	_ fs.NodeWriter    = (*failingFile)(nil)
	_ fs.NodeFsyncer   = (*failingFile)(nil)
	_ fs.NodeSetattrer = (*failingFile)(nil)
	_ fs.NodeGetattrer = (*failingFile)(nil)
)

func (f *failingFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *failingFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o644, 4096
	return 0
}

func (f *failingFile) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return 0
}

func (f *failingFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	if f.stuck != nil {
		<-f.stuck
	}
	if f.read != 0 {
		return nil, f.read
	}
	clear(dest)
	return fuse.ReadResultData(dest), 0
}

func (f *failingFile) Write(_ context.Context, _ fs.FileHandle, data []byte, _ int64) (uint32, syscall.Errno) {
	if f.write != 0 {
		return 0, f.write
	}
	return uint32(len(data)), 0
}

func (f *failingFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return f.sync }

// failingFiles mounts a file system with one file for each fault on dir. A read of
// the file "stuck" ends when release is called.
func failingFiles(t *testing.T, dir string) (release, stop func()) {
	t.Helper()
	stuck := make(chan struct{})
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, AllowOther: true},
		OnAdd: func(ctx context.Context) {
			for name, file := range map[string]*failingFile{
				"read":  {read: syscall.EIO},
				"write": {write: syscall.EIO},
				"quota": {write: syscall.EDQUOT},
				"sync":  {sync: syscall.EIO},
				"stuck": {stuck: stuck},
			} {
				root.AddChild(name, root.NewPersistentInode(ctx, file, fs.StableAttr{Mode: syscall.S_IFREG}), true)
			}
		},
	})
	must(t, err)
	release = sync.OnceFunc(func() { close(stuck) })
	return release, func() {
		release()
		must(t, server.Unmount())
	}
}
