package guest

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forkInNamespaces is syscall.ForkExec with a child that joins a time namespace,
// a user namespace, in which it becomes root, or both. Only a process with a
// single thread can, so it happens between fork and execve; of attr, it knows
// Env and Files.
func forkInNamespaces(ns *birthplace, path string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	path0, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return 0, err
	}
	envv, err := syscall.SlicePtrFromStrings(attr.Env)
	if err != nil {
		return 0, err
	}
	var failed [2]int
	if err := unix.Pipe2(failed[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(failed[0])
	// Copies out of the way of the numbers that the child is to have.
	fds := make([]int, 0, len(attr.Files)+3)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	copied := append([]uintptr{uintptr(failed[1])}, attr.Files...)
	join := 0
	for _, ns := range []struct {
		file *os.File
		flag int
	}{{ns.time, unix.CLONE_NEWTIME}, {ns.user, unix.CLONE_NEWUSER}} {
		if ns.file != nil {
			join |= ns.flag
			copied = append(copied, ns.file.Fd())
		}
	}
	for _, fd := range copied {
		high, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 100)
		if err != nil {
			unix.Close(failed[1])
			return 0, os.NewSyscallError("fcntl", err)
		}
		fds = append(fds, high)
	}
	unix.Close(failed[1])

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// No handler of the Go runtime may run in the child.
	var all, before [8]byte
	for i := range all {
		all[i] = 0xff
	}
	syscall.ForkLock.Lock()
	sigprocmask(&all, &before)
	child, errno := forkExec(path0, &argv[0], &envv[0], &fds[0], len(attr.Files), join, &before)
	sigprocmask(&before, nil)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	if errno != 0 {
		return 0, os.NewSyscallError("fork", errno)
	}
	unix.Close(fds[0])
	fds = fds[1:]
	var report [8]byte
	n, err := readAll(failed[0], report[:])
	if err == nil && n == 0 {
		return child, nil
	}
	// Nobody else knows of it yet.
	_, _ = unix.Wait4(child, nil, 0, nil)
	return 0, fmt.Errorf("join the user or time namespace: %w", syscall.Errno(report[0]))
}

func readAll(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func sigprocmask(set, old *[8]byte) {
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// forkExec forks and, in the child, makes system calls only: fds are where to
// write an errno, then files descriptors from 0, then the time and the user
// namespace, as far as join, CLONE_NEW…, says so. The child's copy of the Go runtime has no other thread, and must not be entered:
// no growing stack, no allocation, no lock.
//
//go:nosplit
//go:norace
//go:noinline
func forkExec(path *byte, argv, envv **byte, fds *int, files, join int, mask *[8]byte) (int, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	const word = unsafe.Sizeof(*fds)
	next := unsafe.Add(unsafe.Pointer(fds), uintptr(1+files)*word)
	if join&unix.CLONE_NEWTIME != 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(*(*int)(next)), unix.CLONE_NEWTIME, 0)
		next = unsafe.Add(next, word)
	}
	if errno == 0 && join&unix.CLONE_NEWUSER != 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(*(*int)(next)), unix.CLONE_NEWUSER, 0)
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		}
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0)
		}
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
		}
	}
	for i := 0; errno == 0 && i < files; i++ {
		fd := *(*int)(unsafe.Add(unsafe.Pointer(fds), uintptr(1+i)*word))
		_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
	}
	if errno == 0 {
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)), 0, 8, 0, 0)
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envv)))
	}
	report := [8]byte{byte(errno)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(*fds), uintptr(unsafe.Pointer(&report)), 1)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
