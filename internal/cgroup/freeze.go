// Package cgroup looks at the cgroup v2 directory of a container and stops and
// continues what is in it.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Control files of the freezer.
const (
	freezeFile = "cgroup.freeze"
	eventsFile = "cgroup.events"
)

// Frozen tells whether the processes of the cgroup are stopped, or stop as soon
// as they can: it or a cgroup above it is frozen. A cgroup that does not exist
// is not.
func Frozen(dir string) bool {
	if dir == "" {
		return false
	}
	own, _ := Value(dir, freezeFile)
	return own == 1 || Table(dir, eventsFile)["frozen"] == 1
}

// Freeze stops all processes of the cgroup and returns when they have stopped.
// Should they not within timeout, they go on.
func Freeze(dir string, timeout time.Duration) error {
	err := setFrozen(dir, 1, timeout)
	if errors.Is(err, errSlow) {
		err = fmt.Errorf("its processes did not stop within %v", timeout)
		err = errors.Join(err, Write(dir, freezeFile, "0"))
	}
	return err
}

// Thaw lets the processes of the cgroup go on, and returns when they do.
func Thaw(dir string, timeout time.Duration) error {
	err := setFrozen(dir, 0, timeout)
	if errors.Is(err, errSlow) {
		err = fmt.Errorf("its processes are still stopped after %v: a cgroup above %s is frozen", timeout, dir)
	}
	return err
}

var errSlow = errors.New("too slow")

func setFrozen(dir string, want uint64, timeout time.Duration) error {
	events, err := os.Open(filepath.Join(dir, eventsFile))
	if err != nil {
		return err
	}
	defer events.Close()
	err = Write(dir, freezeFile, fmt.Sprint(want))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no freezer: that needs Linux 5.2", dir)
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(timeout); ; {
		content := make([]byte, 4096)
		n, err := events.ReadAt(content, 0)
		if n == 0 {
			return fmt.Errorf("read %s of %s: %w", eventsFile, dir, err)
		}
		if parseTable(content[:n])["frozen"] == want {
			return nil
		}
		if time.Now().After(deadline) {
			return errSlow
		}
		if err := awaitChange(events); err != nil {
			return err
		}
	}
}

// Await returns when done says so. It is asked at once, and again when processes
// of the cgroup stop, go on, or are no longer there.
func Await(dir string, done func() bool) error {
	events, err := os.Open(filepath.Join(dir, eventsFile))
	if err != nil && done() {
		return nil // the cgroup went with what was in it
	}
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		// What is read is what poll(2) compares with.
		n, err := events.ReadAt(make([]byte, 4096), 0)
		if done() {
			return nil
		}
		if n == 0 {
			return fmt.Errorf("read %s of %s: %w", eventsFile, dir, err)
		}
		if err := awaitChange(events); err != nil {
			return err
		}
	}
}

// awaitChange waits until cgroup.events is no longer what was read. The kernel
// reports a change; the moment is for what is not reported.
func awaitChange(events *os.File) error {
	const moment = 100 * time.Millisecond
	fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
	if _, err := unix.Poll(fds, int(moment.Milliseconds())); err != nil && err != unix.EINTR {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// Write writes to a control file; it never makes one.
func Write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
