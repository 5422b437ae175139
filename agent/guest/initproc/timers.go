package initproc

import (
	"os"
	"path"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Go's runtime has a thread that looks after the others, as often as every
// 20 µs while they work. In a VM each of its sleeps costs two exits and more.
// With more timer slack (PR_SET_TIMERSLACK) it is woken together with something
// else, mostly the tick.
const (
	relaxedSlack = 4 * time.Millisecond
	// defaultSlack is what the kernel gives process 1. A process takes over that
	// of the thread that forks it.
	defaultSlack = 50 * time.Microsecond
)

// RelaxTimers relaxes the timers of all threads of the process but the
// caller's; threads that these start inherit it. The caller is locked to its
// thread. It is no loss if it fails.
func RelaxTimers() {
	// In numbers of the procfs, which may be another PID namespace's.
	self, err := os.Readlink("/proc/thread-self")
	if err != nil {
		return
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	slack := []byte(strconv.FormatInt(relaxedSlack.Nanoseconds(), 10))
	for _, t := range threads {
		if t.Name() != path.Base(self) {
			_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", slack, 0)
		}
	}
}

// WithDefaultTimers calls fork on a thread with the timer slack that a
// container's process is to have.
func WithDefaultTimers(fork func() (int, error)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	if err := setSlack(int(defaultSlack)); err != nil {
		return 0, err
	}
	pid, err := fork()
	_ = setSlack(before) // worked a moment ago
	return pid, err
}

// setSlack sets the slack of the calling thread, in nanoseconds.
func setSlack(ns int) error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0))
}
