package guest

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// birthplace has the namespaces of a container that the kernel lets a process
// of several threads not join, so that it has to be born there. nil: the agent's
// own.
type birthplace struct {
	pid, user, time *os.File
}

// open opens those among flags, CLONE_NEW…, of the process pid.
func (b *birthplace) open(pid, flags int) error {
	for _, ns := range []struct {
		flag int
		name string
		file **os.File
	}{
		{unix.CLONE_NEWPID, "pid", &b.pid},
		{unix.CLONE_NEWUSER, "user", &b.user},
		// Its own is still the agent's, until it calls execve.
		{unix.CLONE_NEWTIME, "time_for_children", &b.time},
	} {
		if flags&ns.flag == 0 {
			continue
		}
		var err error
		if *ns.file, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/" + ns.name); err != nil {
			return err
		}
	}
	return nil
}

func (b *birthplace) close() {
	for _, f := range []*os.File{b.pid, b.user, b.time} {
		if f != nil {
			f.Close()
		}
	}
}
