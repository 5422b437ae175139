package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"runv.dev/runv/agent/protocol"
)

// Errors of a Client.
var (
	// ErrAgentLost: the connection to the agent is gone.
	ErrAgentLost = errors.New("lost the agent in the guest")
	// ErrProtocol: the agent sent what no agent sends.
	ErrProtocol = errors.New("the agent broke the protocol")

	// What errors.Is finds in an *Error.
	ErrInvalid               = errors.New("invalid request")
	ErrUnsupported           = errors.New("not supported")
	ErrNotFound              = errors.New("not found")
	ErrAlreadyExists         = errors.New("already exists")
	ErrBadState              = errors.New("wrong state")
	ErrExecutableNotFound    = errors.New("executable not found")
	ErrExecutableNotRunnable = errors.New("executable not runnable")
)

var reasons = map[protocol.Failure_Reason]error{
	protocol.Failure_INVALID:                 ErrInvalid,
	protocol.Failure_UNSUPPORTED:             ErrUnsupported,
	protocol.Failure_NOT_FOUND:               ErrNotFound,
	protocol.Failure_ALREADY_EXISTS:          ErrAlreadyExists,
	protocol.Failure_BAD_STATE:               ErrBadState,
	protocol.Failure_EXECUTABLE_NOT_FOUND:    ErrExecutableNotFound,
	protocol.Failure_EXECUTABLE_NOT_RUNNABLE: ErrExecutableNotRunnable,
}

// Error is a request the agent refused or failed.
type Error struct {
	Reason  protocol.Failure_Reason
	Errno   syscall.Errno // 0: none
	Message string        // the agent's words, bounded and printable
}

func (e *Error) Error() string { return e.Message }

// Is matches the error value of the reason, and the errno.
func (e *Error) Is(target error) bool {
	if errno, ok := target.(syscall.Errno); ok {
		return e.Errno != 0 && e.Errno == errno
	}
	sentinel, ok := reasons[e.Reason]
	return ok && target == sentinel
}

// ExitStatus is the exit status a runtime ends with after err: 127 if the
// executable was not found, 126 if it cannot be executed; ok is false for
// other errors.
func ExitStatus(err error) (status int, ok bool) {
	switch {
	case errors.Is(err, ErrExecutableNotFound):
		return 127, true
	case errors.Is(err, ErrExecutableNotRunnable):
		return 126, true
	}
	return 0, false
}

// translate makes an error of the RPC library one of ours.
func (c *Client) translate(ctx context.Context, op string, err error) error {
	if violation := c.guard.violation(); violation != nil {
		return fmt.Errorf("%s: %w: %w", op, ErrAgentLost, violation)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, ttrpc.ErrStreamClosed) || errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%s: %w", op, ErrAgentLost)
	}
	st, ok := status.FromError(err)
	if !ok {
		// Reading or writing failed, or what came could not be decoded.
		return fmt.Errorf("%s: %w: %s", op, ErrAgentLost, printable(err.Error()))
	}
	if st.Code() == codes.DeadlineExceeded && len(st.Proto().GetDetails()) == 0 {
		return fmt.Errorf("%s: %w", op, context.DeadlineExceeded)
	}
	return fmt.Errorf("%s: %w", op, failure(st))
}

// failure reads the Failure in a status.
func failure(st *status.Status) *Error {
	e := &Error{Message: printable(st.Message())}
	if e.Message == "" {
		e.Message = "the agent gave no reason"
	}
	for _, detail := range st.Details() {
		f, ok := detail.(*protocol.Failure)
		if !ok {
			continue
		}
		if _, known := protocol.Failure_Reason_name[int32(f.Reason)]; known {
			e.Reason = f.Reason
		}
		if f.Errno < maxErrno {
			e.Errno = syscall.Errno(f.Errno)
		}
		break
	}
	return e
}

// maxErrno is the kernel's bound of errno values.
const maxErrno = 4096

// maxText bounds a text from the guest.
const maxText = 4096

// printable makes a text from the guest fit for a terminal and a log: bounded,
// valid UTF-8, on one line and without control characters.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
