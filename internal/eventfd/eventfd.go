// Package eventfd wraps eventfd(2): the counter through which KVM tells the
// VMM of a doorbell (ioeventfd) and the VMM asks KVM for an interrupt (irqfd).
package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// EventFD is a non-blocking, close-on-exec eventfd. It is safe for concurrent
// use.
type EventFD struct {
	mu     sync.RWMutex // held for reading while fd is in use
	fd     int
	closed bool

	// file makes fd known to the runtime's poller, from the first Wait on: the
	// poller of one that is only signalled would wake up for nothing.
	file *os.File
}

var one = binary.NativeEndian.AppendUint64(nil, 1)

// New makes an eventfd with the counter at zero.
func New() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	return &EventFD{fd: fd}, nil
}

// FD returns the file descriptor, for an ioctl; it stays owned by e and is
// invalid after Close.
func (e *EventFD) FD() int { return e.fd }

// Signal adds one to the counter. It does not block: the counter holds more
// than anyone can count to. The error is os.ErrClosed once e is closed.
func (e *EventFD) Signal() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return fmt.Errorf("signal: %w", os.ErrClosed)
	}
	for {
		_, err := unix.Write(e.fd, one)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("write", err)
		}
	}
}

// Wait blocks the goroutine, and no thread, until the counter is above zero,
// and sets it back to zero. Several signals may be one wake-up. The error is
// os.ErrClosed once e is closed.
func (e *EventFD) Wait() error {
	file := e.polled()
	if file == nil {
		return fmt.Errorf("wait: %w", os.ErrClosed)
	}
	var b [8]byte
	n, err := file.Read(b[:])
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if n != len(b) {
		return errors.New("wait: short read")
	}
	return nil
}

// polled returns file, or nil if e is closed.
func (e *EventFD) polled() *os.File {
	e.mu.RLock()
	file, closed := e.file, e.closed
	e.mu.RUnlock()
	if file != nil || closed {
		return file
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil && !e.closed {
		e.file = os.NewFile(uintptr(e.fd), "eventfd")
	}
	return e.file
}

// Close releases the descriptor and ends a pending Wait.
func (e *EventFD) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return os.ErrClosed
	}
	e.closed = true
	if e.file != nil {
		return e.file.Close()
	}
	return os.NewSyscallError("close", unix.Close(e.fd))
}
