package devicefilter

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Parts of union bpf_attr of <linux/bpf.h>.
type (
	loadAttr struct {
		kind              uint32
		count             uint32
		instructions      uint64
		license           uint64
		logLevel, logSize uint32
		logBuffer         uint64
		kernel, loadFlags uint32
	}
	attachAttr struct {
		cgroup, program uint32
		kind, flags     uint32
	}
)

// Attach has a cgroup, given by its directory, apply the rules to its processes
// and to those of all below it, until it is removed.
func Attach(cgroup string, rules []specs.LinuxDeviceCgroup) error {
	code, err := compile(rules)
	if err != nil || code == nil {
		return err
	}
	program, err := load(code)
	if err != nil {
		return err
	}
	if !keep(program) {
		defer unix.Close(program)
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	attr := attachAttr{uint32(dir.Fd()), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return fmt.Errorf("attach the rules for devices: %w", os.NewSyscallError("bpf", errno))
	}
	return nil
}

// kept is a program that stays loaded, as its descriptor plus one; 0: none yet.
var kept atomic.Int64

// keep keeps the first program, and tells whether this is it. The kernel puts
// the code of programs into packs of 2 MiB, which it writes to from end to end
// when it makes one and frees with the last program in it. With one in the
// template its clones share the pack.
func keep(program int) bool { return kept.CompareAndSwap(0, int64(program)+1) }

func load(code []instruction) (int, error) {
	license := []byte("Apache-2.0\x00")
	var log []byte
	for {
		attr := loadAttr{
			kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)),
			instructions: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		}
		if log != nil {
			attr.logLevel, attr.logSize, attr.logBuffer = 1, uint32(len(log)), uint64(uintptr(unsafe.Pointer(&log[0])))
		}
		fd, errno := uninterrupted(func() (uintptr, unix.Errno) {
			fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
			return fd, errno
		})
		runtime.KeepAlive(code)
		runtime.KeepAlive(license)
		runtime.KeepAlive(log)
		if errno == 0 {
			unix.CloseOnExec(int(fd))
			return int(fd), nil
		}
		if log != nil || errno != unix.EINVAL && errno != unix.EACCES {
			text, _, _ := bytes.Cut(log, []byte{0})
			return -1, fmt.Errorf("load the rules for devices: %w %s", os.NewSyscallError("bpf", errno), bytes.TrimSpace(text))
		}
		log = make([]byte, 64<<10) // once more, to hear what the verifier says
	}
}

// uninterrupted repeats a call while signals end it: the verifier gives up when
// there is one for the thread, such as those of Go's scheduler.
func uninterrupted(call func() (uintptr, unix.Errno)) (fd uintptr, errno unix.Errno) {
	for range 1000 {
		if fd, errno = call(); errno != unix.EAGAIN && errno != unix.EINTR {
			break
		}
	}
	return fd, errno
}
