package vmm

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// openPagemap opens the page map of this process, without the page frame
// numbers: /proc shows physical addresses to a file that was opened with
// CAP_SYS_ADMIN, for as long as it is open, and neither checkpoints nor working
// sets need any.
func openPagemap() (*os.File, error) {
	// Capabilities belong to the thread. One whose own are not restored is not
	// unlocked, and ends with its goroutine.
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("capget", err)
	}
	less := have
	less[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&header, &less[0]); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("capset", err)
	}
	f, err := os.Open("/proc/self/pagemap")
	if restore := unix.Capset(&header, &have[0]); restore != nil {
		if err == nil {
			f.Close()
		}
		return nil, errors.Join(err, os.NewSyscallError("capset", restore))
	}
	runtime.UnlockOSThread()
	return f, err
}
