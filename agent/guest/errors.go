package guest

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
)

// failf is a failure of a certain reason.
func failf(reason protocol.Failure_Reason, format string, args ...any) error {
	return &initproc.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

var statusCodes = map[protocol.Failure_Reason]codes.Code{
	protocol.Failure_INVALID:                 codes.InvalidArgument,
	protocol.Failure_UNSUPPORTED:             codes.Unimplemented,
	protocol.Failure_NOT_FOUND:               codes.NotFound,
	protocol.Failure_ALREADY_EXISTS:          codes.AlreadyExists,
	protocol.Failure_BAD_STATE:               codes.FailedPrecondition,
	protocol.Failure_EXECUTABLE_NOT_FOUND:    codes.NotFound,
	protocol.Failure_EXECUTABLE_NOT_RUNNABLE: codes.PermissionDenied,
}

// statusOf makes an error the status of an RPC, with the Failure in it.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	// The caller's own doing: not a failure of the request.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	f := initproc.Fail(err)
	code, ok := statusCodes[f.Reason]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, f.Message)
	detailed, detailErr := st.WithDetails(&protocol.Failure{Reason: f.Reason, Errno: uint32(f.Errno)})
	if detailErr != nil {
		return st.Err()
	}
	return detailed.Err()
}
