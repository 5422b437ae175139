// Package eventfd wraps eventfd(2): the counter through which KVM tells the
// VMM of a doorbell (ioeventfd) and the VMM asks KVM for an interrupt (irqfd).
package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// EventFD is a non-blocking, close-on-exec eventfd. It is safe for concurrent
// use.
type EventFD struct {
	file *os.File
	fd   int
}

var one = binary.NativeEndian.AppendUint64(nil, 1)

// New makes an eventfd with the counter at zero.
func New() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	return &EventFD{file: os.NewFile(uintptr(fd), "eventfd"), fd: fd}, nil
}

// FD returns the file descriptor, for an ioctl; it stays owned by e and is
// invalid after Close.
func (e *EventFD) FD() int { return e.fd }

// Signal adds one to the counter. It does not block: the counter holds more
// than anyone can count to.
func (e *EventFD) Signal() error {
	if _, err := e.file.Write(one); err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	return nil
}

// Wait blocks the goroutine, and no thread, until the counter is above zero,
// and sets it back to zero. Several signals may be one wake-up. The error is
// os.ErrClosed once e is closed.
func (e *EventFD) Wait() error {
	var b [8]byte
	n, err := e.file.Read(b[:])
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if n != len(b) {
		return errors.New("wait: short read")
	}
	return nil
}

// Close releases the descriptor and ends a pending Wait.
func (e *EventFD) Close() error { return e.file.Close() }
