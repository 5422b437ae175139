package cage

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Layer is a layer of the cage that not every host has.
type Layer struct {
	Name   string
	Err    error  // why it is not there; nil: it is
	Detail string // of one that is there
	Advice string // what to do about one that is not
	// Vital: there is no VM without it.
	Vital bool
}

// Layers finds out what this host has. It changes nothing.
func Layers() []Layer {
	return []Layer{seccompLayer(), landlockLayer(), procLayer(), executableLayer()}
}

func seccompLayer() Layer {
	l := Layer{Name: "seccomp", Vital: true, Detail: "filters",
		Advice: "use a host kernel with CONFIG_SECCOMP_FILTER"}
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(b), "kill_process") {
		l.Err = fmt.Errorf("no seccomp filters")
	}
	return l
}

func landlockLayer() Layer {
	l := Layer{Name: "landlock",
		Advice: "use Linux 5.19 or later with landlock among the lsm= of the kernel command line"}
	abi, errata, err := landlockABI()
	if err != nil {
		l.Err = fmt.Errorf("no Landlock (%w)", err)
		return l
	}
	l.Detail = fmt.Sprintf("ABI %d: files", abi)
	r := new(Options).restrictions(abi, errata)
	for _, part := range []struct {
		name string
		has  bool
	}{
		{"truncation", r.files&unix.LANDLOCK_ACCESS_FS_TRUNCATE != 0},
		{"TCP ports", r.network != 0},
		{"devices", r.files&unix.LANDLOCK_ACCESS_FS_IOCTL_DEV != 0},
		{"abstract sockets", r.scopes&unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET != 0},
		{"signals", r.scopes&unix.LANDLOCK_SCOPE_SIGNAL != 0},
	} {
		if part.has {
			l.Detail += ", " + part.name
		}
	}
	return l
}

func procLayer() Layer {
	l := Layer{Name: "procfs", Detail: "an instance of its own for the VM process",
		Advice: "use Linux 5.8 or later"}
	fd, err := configureProc()
	switch {
	case err == unix.EPERM || os.Geteuid() != 0:
		l.Err, l.Advice = fmt.Errorf("not known without root privileges"), "run this as root"
	case err != nil:
		l.Err = err
	}
	if err == nil {
		unix.Close(fd)
	}
	return l
}

func executableLayer() Layer {
	l := Layer{Name: "executable", Detail: "the VM process runs from a read-only mount of it",
		Advice: "use Linux 5.12 or later, and a runv that is in the caller's mount namespace"}
	f, err := OpenExecutable()
	switch {
	case os.Geteuid() != 0:
		l.Err, l.Advice = fmt.Errorf("not known without root privileges"), "run this as root"
	case err != nil:
		l.Err = err
	}
	if err == nil {
		f.Close()
	}
	return l
}
