package passthrough

import (
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/thread"
)

// xattrCalls are the system calls for extended attributes of inodes. None of
// them takes an O_PATH descriptor, so an inode is named in /proc/self/fd, or
// opened.
type xattrCalls interface {
	get(n *inode, name string, dest []byte) (int, error)
	list(n *inode, dest []byte) (int, error)
	set(n *inode, name string, data []byte, flags int) error
	remove(n *inode, name string) error
	close()
}

func (f *FS) newXattrCalls(root int) xattrCalls {
	_, err := getxattrat(f.proc, strconv.Itoa(root), hostTrusted+"probe", nil)
	if err == unix.ENOSYS || err == unix.EPERM {
		return xattrOpen{f, newXattrThread(f.proc)}
	}
	return xattrAt{f.proc}
}

// xattrAt is for Linux 6.13 and later, where the calls take a directory.
type xattrAt struct{ proc int }

func (x xattrAt) get(n *inode, name string, dest []byte) (int, error) {
	return getxattrat(x.proc, strconv.Itoa(n.fd), name, dest)
}

func (x xattrAt) list(n *inode, dest []byte) (int, error) {
	return listxattrat(x.proc, strconv.Itoa(n.fd), dest)
}

func (x xattrAt) set(n *inode, name string, data []byte, flags int) error {
	return setxattrat(x.proc, strconv.Itoa(n.fd), name, data, flags)
}

func (x xattrAt) remove(n *inode, name string) error {
	return removexattrat(x.proc, strconv.Itoa(n.fd), name)
}

func (xattrAt) close() {}

// xattrOpen opens files and directories for the call, as handing it to another
// thread takes several times as long. It leaves to the thread what must not be
// opened, and what takes messages over a network to open.
type xattrOpen struct {
	f *FS
	*xattrThread
}

func (x xattrOpen) open(n *inode) (fd int, ok bool) {
	if n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR || x.f.mounts.of(n.key.dev, n.fd).remote {
		return -1, false
	}
	// Without O_NONBLOCK it would wait for the holder of a lease.
	fd, err := x.f.reopen(n.fd, unix.O_RDONLY|unix.O_NONBLOCK)
	return fd, err == nil
}

func (x xattrOpen) get(n *inode, name string, dest []byte) (int, error) {
	fd, ok := x.open(n)
	if !ok {
		return x.xattrThread.get(n, name, dest)
	}
	defer unix.Close(fd)
	return unix.Fgetxattr(fd, name, dest)
}

func (x xattrOpen) list(n *inode, dest []byte) (int, error) {
	fd, ok := x.open(n)
	if !ok {
		return x.xattrThread.list(n, dest)
	}
	defer unix.Close(fd)
	return unix.Flistxattr(fd, dest)
}

func (x xattrOpen) set(n *inode, name string, data []byte, flags int) error {
	fd, ok := x.open(n)
	if !ok {
		return x.xattrThread.set(n, name, data, flags)
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, name, data, flags)
}

func (x xattrOpen) remove(n *inode, name string) error {
	fd, ok := x.open(n)
	if !ok {
		return x.xattrThread.remove(n, name)
	}
	defer unix.Close(fd)
	return unix.Fremovexattr(fd, name)
}

// xattrThread makes the calls which take a path on a thread of its own, whose
// working directory is /proc/self/fd: there, an inode's path is the number of
// its descriptor.
type xattrThread struct {
	calls chan func()
	err   error
	end   func() // once
	ended chan struct{}
}

func newXattrThread(proc int) *xattrThread {
	t := &xattrThread{calls: make(chan func()), ended: make(chan struct{})}
	t.end = sync.OnceFunc(func() { close(t.ended) })
	ready := make(chan error)
	go thread.Run(func() {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Fchdir(proc)
		}
		ready <- err
		for {
			select {
			case call := <-t.calls:
				call()
			case <-t.ended:
				return
			}
		}
	})
	t.err = <-ready
	return t
}

func (t *xattrThread) do(n *inode, call func(path string) (int, error)) (size int, err error) {
	if t.err != nil {
		return 0, unix.EOPNOTSUPP
	}
	done := make(chan struct{})
	run := func() {
		size, err = call(strconv.Itoa(n.fd))
		close(done)
	}
	select {
	case t.calls <- run:
		<-done
		return size, err
	case <-t.ended:
		return 0, unix.EBADF
	}
}

func (t *xattrThread) get(n *inode, name string, dest []byte) (int, error) {
	return t.do(n, func(path string) (int, error) { return unix.Getxattr(path, name, dest) })
}

func (t *xattrThread) list(n *inode, dest []byte) (int, error) {
	return t.do(n, func(path string) (int, error) { return unix.Listxattr(path, dest) })
}

func (t *xattrThread) set(n *inode, name string, data []byte, flags int) error {
	_, err := t.do(n, func(path string) (int, error) { return 0, unix.Setxattr(path, name, data, flags) })
	return err
}

func (t *xattrThread) remove(n *inode, name string) error {
	_, err := t.do(n, func(path string) (int, error) { return 0, unix.Removexattr(path, name) })
	return err
}

func (t *xattrThread) close() { t.end() }
