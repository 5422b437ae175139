// Package initproc is the part of the agent that becomes a container's process:
// the agent starts itself again, hands the child its configuration over a
// socket, and the child enters the namespaces, builds the root file system,
// takes on the attributes of the OCI process object and calls execve.
//
// The messages between the two, each a length and JSON, some with file
// descriptors:
//
//	agent                            child
//	                           <---  Report{Idle}        its runtime is up
//	Config, stdio, [sysfs or pidfd] --->
//	                           <---  Report{Prepared}, [terminal]
//	Go                         --->
//	                           <---  end of file: execve closed the socket
//
// Instead of any of its messages the child may send Report{Failure} and exit.
package initproc

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// SocketFD is the child's end of the socket.
const SocketFD = 3

// The first argument of the agent when it starts itself again.
const (
	InitArg = "init" // becomes the first process of a container
	ExecArg = "exec" // becomes one more
)

// Config tells a child what to become.
type Config struct {
	// Spec is the container's; of an additional process only linux.seccomp
	// is looked at.
	Spec *specs.Spec
	// Process to become; for InitArg the same as Spec.Process.
	Process *specs.Process
	// Rootfs is where the first process finds the root file system.
	Rootfs Rootfs
	// Namespaces are the CLONE_NEW flags to unshare (InitArg) or to join
	// (ExecArg). A PID namespace is entered by being cloned into it.
	Namespaces int
	// Width and Height are the first size of the terminal, 0 for unset.
	Width, Height uint16
	// PlainNewlines: the terminal adds no carriage returns.
	PlainNewlines bool
}

// Rootfs is a mount(2) of the root file system.
type Rootfs struct {
	Type, Source, Data string
	Flags              uintptr
	// Target is a directory of the agent's on which the child mounts it.
	Target string
}

// Go lets a prepared child call execve.
type Go struct {
	// State is the OCI state for startContainer hooks.
	State json.RawMessage
}

// Report is what a child says.
type Report struct {
	Idle, Prepared bool
	Warnings       []string
	Failure        *Failure
}

// Failure is an error that crosses from the child to the agent and from there
// to the host.
type Failure struct {
	Reason  protocol.Failure_Reason
	Errno   unix.Errno
	Message string
}

func (f *Failure) Error() string { return f.Message }

// Fail makes err a Failure: itself if it is one, otherwise of reason SETUP.
func Fail(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return &Failure{Reason: f.Reason, Errno: f.Errno, Message: err.Error()}
	}
	f = &Failure{Reason: protocol.Failure_SETUP, Message: err.Error()}
	errors.As(err, &f.Errno)
	return f
}

// Unsupported is the failure for what the agent cannot do.
func Unsupported(format string, args ...any) error {
	return &Failure{Reason: protocol.Failure_UNSUPPORTED, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the failure for a configuration that cannot be right.
func Invalid(format string, args ...any) error {
	return &Failure{Reason: protocol.Failure_INVALID, Message: fmt.Sprintf(format, args...)}
}

// maxMessage bounds a message on the socket.
const maxMessage = 8 << 20

// maxFDs bounds the file descriptors that go with a message.
const maxFDs = 4

// Send writes a message to the socket, blocking or not, with file descriptors
// that are duplicated on the way.
func Send(socket *os.File, v any, fds ...int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	msg := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	msg = append(msg, body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	for len(msg) > 0 {
		var n int
		var sendErr error
		err := raw.Write(func(fd uintptr) bool {
			n, sendErr = unix.SendmsgN(int(fd), msg, oob, nil, unix.MSG_NOSIGNAL)
			return sendErr != unix.EAGAIN
		})
		if err != nil {
			return err
		}
		if sendErr == unix.EINTR {
			continue
		}
		if sendErr != nil {
			return os.NewSyscallError("sendmsg", sendErr)
		}
		msg, oob = msg[n:], nil
	}
	return nil
}

// Receive reads a message and the file descriptors that came with it, which
// are close-on-exec. It returns io.EOF if the other side closed the socket.
func Receive(socket *os.File, v any) (fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			fds = nil
		}
	}()
	var header [4]byte
	n, fds, err := receiveRights(socket, header[:])
	if err != nil {
		return fds, err
	}
	if n == 0 {
		return fds, io.EOF
	}
	if _, err := io.ReadFull(socket, header[n:]); err != nil {
		return fds, err
	}
	size := binary.LittleEndian.Uint32(header[:])
	if size > maxMessage {
		return fds, fmt.Errorf("message of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(socket, body); err != nil {
		return fds, err
	}
	return fds, json.Unmarshal(body, v)
}

func receiveRights(socket *os.File, p []byte) (n int, fds []int, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	var oobn int
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, recvErr = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
			if recvErr != unix.EINTR {
				return recvErr != unix.EAGAIN
			}
		}
	})
	if err != nil {
		return 0, nil, err
	}
	if recvErr != nil {
		return 0, nil, os.NewSyscallError("recvmsg", recvErr)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range messages {
		rights, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		fds = append(fds, rights...)
	}
	return n, fds, nil
}
