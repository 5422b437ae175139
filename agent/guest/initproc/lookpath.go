package initproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the executable of args[0] the way execvp does, with the
// permissions of the caller. Engines read the exit status off the error's
// words: see executableError.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", executableError(name, err)
		}
		return name, nil
	}
	dirs := defaultPath
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = value
		}
	}
	denied := false
	for _, dir := range strings.Split(dirs, ":") {
		if dir == "" {
			dir = "."
		}
		candidate := dir + "/" + name
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = true
		}
	}
	if denied {
		return "", executableError(name, &os.PathError{Op: "exec", Path: name, Err: unix.EACCES})
	}
	return "", &Failure{
		Reason:  protocol.Failure_EXECUTABLE_NOT_FOUND,
		Errno:   unix.ENOENT,
		Message: fmt.Sprintf("exec: %q: executable file not found in $PATH", name),
	}
}

// executable tells whether a file can be executed, links followed.
func executable(name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return &os.PathError{Op: "exec", Path: name, Err: unix.EISDIR}
	case st.Mode&0o111 == 0:
		return &os.PathError{Op: "exec", Path: name, Err: unix.EACCES}
	}
	if err := unix.Faccessat(unix.AT_FDCWD, name, unix.X_OK, unix.AT_EACCESS); err == unix.EACCES {
		return &os.PathError{Op: "exec", Path: name, Err: err}
	}
	return nil
}

// executableError is the failure of looking up or executing a file: "no such
// file or directory" means 127, "permission denied" and all else 126.
func executableError(name string, err error) error {
	f := &Failure{
		Reason:  protocol.Failure_EXECUTABLE_NOT_RUNNABLE,
		Message: fmt.Sprintf("exec: %q: %v", name, err),
	}
	errors.As(err, &f.Errno)
	switch f.Errno {
	case unix.ENOENT, unix.ENOTDIR:
		f.Reason = protocol.Failure_EXECUTABLE_NOT_FOUND
		if f.Errno == unix.ENOTDIR {
			f.Message += ": no such file or directory"
		}
	case unix.ENOEXEC, unix.EISDIR:
		f.Message += ": permission denied"
	}
	return f
}
