package kvm

import "golang.org/x/sys/unix"

// Error is a KVM request that the kernel refused. It unwraps to the errno.
type Error struct {
	Op    string // the name of the request
	Errno unix.Errno
}

func (e *Error) Error() string { return e.Op + ": " + e.Errno.Error() }

func (e *Error) Unwrap() error { return e.Errno }
