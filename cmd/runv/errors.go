package main

import (
	"errors"
	"fmt"
)

// exitError is an exit status that is not 1. With an error, that is reported.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// withStatus is the exit status of a container, nil for 0.
func withStatus(status int) error {
	if status == 0 {
		return nil
	}
	return &exitError{status: status}
}

func asExit(err error, target **exitError) bool { return errors.As(err, target) }

// errorOf is what to report of err, nil if it only carries a status.
func errorOf(err error) error {
	var exit *exitError
	if errors.As(err, &exit) && exit.err == nil {
		return nil
	}
	return err
}
