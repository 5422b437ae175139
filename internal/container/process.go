package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process identifies a process beyond the reuse of its pid.
type Process struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat: clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// FindProcess identifies the running process pid.
func FindProcess(pid int) (Process, error) {
	_, start, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, StartTime: start}, nil
}

// Alive tells whether the process still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	state, start, err := readStat(p.PID)
	return err == nil && start == p.StartTime && state != 'Z' && state != 'X'
}

// readStat reads a process's state and start time.
func readStat(pid int) (state byte, start uint64, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	state, start, err = parseStat(data)
	if err != nil {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return state, start, nil
}

var errStat = errors.New("malformed")

// parseStat parses /proc/PID/stat. The command in parentheses may hold anything,
// parentheses and spaces included.
func parseStat(data []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, errStat
	}
	fields := bytes.Fields(data[end+1:])
	const firstField, startField = 3, 22
	if len(fields) <= startField-firstField || len(fields[0]) != 1 {
		return 0, 0, errStat
	}
	start, err = strconv.ParseUint(string(fields[startField-firstField]), 10, 64)
	if err != nil {
		return 0, 0, errStat
	}
	return fields[0][0], start, nil
}

// Wait waits until the process does not run any more, but no longer than timeout;
// a negative one is none.
func (p Process) Wait(timeout time.Duration) (ended bool, err error) {
	fd, err := p.open()
	if err != nil || fd < 0 {
		return err == nil, err
	}
	defer unix.Close(fd)
	return waitEnd(fd, timeout)
}

// open has a descriptor that holds on to the process, -1 if there is none any
// more. A zombie may have threads that still run, or wait in the kernel: the
// descriptor tells.
func (p Process) open() (int, error) {
	if p.PID <= 0 {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == unix.ESRCH {
		return -1, nil
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	// The descriptor holds on to one process; whether it is ours is looked at
	// after it was opened.
	if _, start, err := readStat(p.PID); err != nil || start != p.StartTime {
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// waitEnd waits for the end of the process of a descriptor, as Wait does.
func waitEnd(fd int, timeout time.Duration) (ended bool, err error) {
	deadline := time.Now().Add(timeout)
	for {
		milliseconds := -1
		if timeout >= 0 {
			milliseconds = int(max(time.Until(deadline), 0).Milliseconds()) + 1
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, milliseconds)
		if err != unix.EINTR {
			return n > 0, os.NewSyscallError("poll", err)
		}
	}
}

// Signal sends a signal and does not wait for what comes of it; one to a process
// that has ended is lost.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := p.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it is gone, but no longer
// than timeout. It reports whether it is; what waits in the host's kernel, for a
// disk or another file server, may not be. A process that does not run any more
// is no error.
func (p Process) Kill(timeout time.Duration) (ended bool, err error) {
	fd, err := p.open()
	if err != nil || fd < 0 {
		return err == nil, err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return false, os.NewSyscallError("pidfd_send_signal", err)
	}
	return waitEnd(fd, timeout)
}
