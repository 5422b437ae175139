package cage

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machineFiles are files without a path that any number may be open of: the
// machine's, its doorbells and interrupts, and the Go runtime's poller.
var machineFiles = []string{
	"anon_inode:kvm-vm", "anon_inode:kvm-vcpu:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]",
}

// Seal leaves this process the descriptors in keep, which it names, and those of
// the machine. Any other becomes a descriptor of nothing, as whoever has its
// number may still close it, and is listed in the result. All are close-on-exec
// afterwards. /proc must be this process's.
func Seal(keep map[int]string) (replaced []string, err error) {
	open, err := descriptors()
	if err != nil {
		return nil, err
	}
	nothing := -1
	defer func() {
		if nothing >= 0 {
			unix.Close(nothing)
		}
	}()
	for _, fd := range slices.Sorted(maps.Keys(open)) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			continue // it was that of the list
		}
		if _, ok := keep[fd]; ok || isMachineFile(open[fd]) {
			continue
		}
		if nothing < 0 {
			if nothing, err = openNothing(); err != nil {
				return replaced, err
			}
		}
		if err := unix.Dup3(nothing, fd, unix.O_CLOEXEC); err != nil {
			return replaced, os.NewSyscallError("dup3", err)
		}
		replaced = append(replaced, fmt.Sprintf("%d (%s)", fd, open[fd]))
	}
	return replaced, nil
}

func isMachineFile(name string) bool {
	return slices.ContainsFunc(machineFiles, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// descriptors are the open ones, with what the kernel calls them.
func descriptors() (map[int]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	open := make(map[int]string)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		name, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			continue // it was that of the list
		}
		open[fd] = name
	}
	return open, nil
}

// openNothing has the reading end of a pipe that nobody writes to.
func openNothing() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	unix.Close(p[1])
	return p[0], nil
}
