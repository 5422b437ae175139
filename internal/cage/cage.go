package cage

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Options say what the VM process still has to do.
type Options struct {
	// ReadOnly: nothing of the share can be written.
	ReadOnly bool
	// DeviceNodes: device nodes can be made in it.
	DeviceNodes bool
	// Network: it makes sockets in the name of the guest; with LowPorts also
	// those that listen on ports below 1024.
	Network, LowPorts bool

	// Lacks are the layers that could not be had before, in one line each.
	Lacks []string
	// Require refuses to go on without them, or without Landlock.
	Require bool
}

// Close gives up what this process needs no more, on all of its threads, for
// good. It comes last, before the guest's first instruction, when the root
// directory is the share. landlock is the ABI in use, 0 if there is none.
func Close(o Options) (landlock int, err error) {
	// No core dump and no ptrace by processes of the same user: the memory of
	// the guest is in here.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("PR_SET_DUMPABLE: %w", os.NewSyscallError("prctl", err))
	}
	if err := lockSecurebits(); err != nil {
		return 0, err
	}
	abi, errata, err := landlockABI()
	if err != nil {
		abi = 0
		o.Lacks = append(o.Lacks, "landlock: "+err.Error())
	} else if err := o.landlock(abi, errata); err != nil {
		return 0, fmt.Errorf("landlock: %w", err)
	}
	if o.Require && len(o.Lacks) > 0 {
		return abi, incomplete(o.Lacks)
	}
	if err := dropCapabilities(o.Capabilities()); err != nil {
		return abi, err
	}
	filter, err := o.filter(unix.Getpid())
	if err != nil {
		return abi, err
	}
	return abi, filter.LoadAll()
}

func incomplete(lacks []string) error {
	return fmt.Errorf("the cage of the VM process has to be whole, and lacks %s: see runv check", strings.Join(lacks, "; "))
}

// Prepare makes what Close cannot any more: the directory for the file server,
// see [NewProc]. lacks are for Options.
func Prepare() (proc *os.File, lacks []string, err error) {
	proc, err = NewProc()
	if proc == nil {
		return nil, nil, err
	}
	if err != nil {
		lacks = append(lacks, "procfs: "+err.Error())
	}
	if err := executableLack(); err != nil {
		lacks = append(lacks, "executable: "+err.Error())
	}
	return proc, lacks, nil
}

// Check says before anything is made what is seen to be missing then, in one
// line each: the other layers show in the VM process. With require it is an
// error.
func Check(require bool) (lacks []string, err error) {
	if _, _, err := landlockABI(); err != nil {
		lacks = append(lacks, "landlock: "+err.Error())
	}
	if require && len(lacks) > 0 {
		return nil, incomplete(lacks)
	}
	return lacks, nil
}

// ErrKilled explains the end of a VM process by SIGSYS.
var ErrKilled = errors.New("the VM process made a system call that its cage does not allow, and was killed: the host's kernel log (audit, type=1326) has its number")
