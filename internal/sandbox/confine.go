package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// limitPrivileges makes sure that a process which this thread starts can give up
// privileges for good. It gets all capabilities that this thread has, but from
// the inheritable set: the bounding set is empty, so that once it has dropped
// them no execve brings any back.
func limitPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", os.NewSyscallError("prctl", err))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Inheritable = data[i].Permitted
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == unix.EINVAL {
			break // a kernel with fewer capabilities
		}
		if err != nil {
			return fmt.Errorf("PR_CAPBSET_DROP: %w", os.NewSyscallError("prctl", err))
		}
	}
	return nil
}
