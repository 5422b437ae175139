// Command testhost runs commands as root on a machine whose /dev/kvm is real:
// this one when kvm_amd or kvm_intel works here, else a machine emulated by
// QEMU whose processor has AMD's virtualization extension.
//
// It is started through the scripts beside this directory (run, start, exec,
// stop) and, inside a host, as that host's first process and agent.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// Exit statuses of testhost itself; all others are the command's.
const (
	exitUsage   = 2
	exitTimeout = 124
	exitFailed  = 125 // no host, or the host went away
)

const usage = `usage: run   [-m MIB] [-p CPUS] [-w DIR]... [-t SECONDS] -- COMMAND [ARG...]
       start [-m MIB] [-p CPUS] [-w DIR]... [-t IDLE-SECONDS] NAME
       exec  [-t SECONDS] NAME -- COMMAND [ARG...]
       stop  NAME
       kind
`

// statusError ends the program with a status of its own.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func failf(status int, format string, args ...any) error {
	return &statusError{status, fmt.Errorf(format, args...)}
}

// The kernel ties a child's parent-death signal to the thread that started it,
// so hosts are started from the main thread, which lives as long as the process.
func init() { runtime.LockOSThread() }

func main() {
	status, err := dispatch(os.Args)
	if err != nil {
		var s *statusError
		if errors.As(err, &s) {
			status = s.status
		} else if status == 0 {
			status = exitFailed
		}
		fmt.Fprintf(os.Stderr, "testhost: %s\n", strings.TrimSpace(err.Error()))
	}
	os.Exit(status)
}

func dispatch(args []string) (int, error) {
	if args[0] == "/init" && os.Getpid() == 1 {
		return 0, guestInit()
	}
	if len(args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage, nil
	}
	verb, rest := args[1], args[2:]
	switch verb {
	case "run":
		return runOnce(rest)
	case "start":
		return 0, start(rest)
	case "exec":
		return execIn(rest)
	case "stop":
		return 0, stop(rest)
	case "kind":
		return 0, printKind()
	case "daemon": // the process behind start
		return 0, daemon(rest)
	case "agent": // inside a host, frames on fd 3
		return 0, serveAgent(os.NewFile(3, "control"))
	case "native-init": // first process of a native host
		return 0, nativeInit(rest)
	}
	fmt.Fprint(os.Stderr, usage)
	return exitUsage, nil
}

// signalStatus is the exit status of a process killed by sig.
func signalStatus(sig syscall.Signal) int { return 128 + int(sig) }
