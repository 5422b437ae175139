package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// keptCapabilities are what a file server needs to act for any user of the
// guest, and nothing else: the guest's kernel has decided on every access
// before it reaches the share.
var keptCapabilities = []uint{
	unix.CAP_CHOWN,
	unix.CAP_DAC_OVERRIDE,
	unix.CAP_DAC_READ_SEARCH, // search in directories with no permissions at all
	unix.CAP_FOWNER,          // chmod, utimes, sticky directories
	unix.CAP_FSETID,          // setgid bits on files of other groups
	unix.CAP_SETFCAP,
}

// openFiles is the limit on descriptors: a share needs one per file that the
// guest has in use. It is a bound as well.
const openFiles = 1 << 20

// PrepareLimits sets the resource limits and the OOM score of the VM process.
// It comes before anything that sizes itself by them, and before Enter.
func PrepareLimits(oomScoreAdj *int) error {
	files := uint64(openFiles)
	if data, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if most, err := strconv.ParseUint(string(data[:max(len(data)-1, 0)]), 10, 64); err == nil {
			files = min(files, most)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	limit.Max = max(limit.Max, files)
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur, limit.Max = 0, 0
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("RLIMIT_NOFILE: %w", os.NewSyscallError("setrlimit", err))
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("RLIMIT_CORE: %w", os.NewSyscallError("setrlimit", err))
	}
	if oomScoreAdj != nil {
		// When the host runs out of memory, this process stands for the
		// container.
		value := strconv.Itoa(*oomScoreAdj)
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(value), 0); err != nil {
			return fmt.Errorf("process.oomScoreAdj: %w", err)
		}
	}
	return nil
}

// Confine gives up what the VM process needs no more, on all of its threads,
// for good. It comes last, before the guest's first instruction. With
// deviceNodes the share may make device nodes.
func Confine(deviceNodes bool) error {
	// No core dump and no ptrace by processes of the same user: the memory of
	// the guest is in here.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", os.NewSyscallError("prctl", err))
	}
	keep := keptCapabilities
	if deviceNodes {
		keep = append(slices.Clone(keep), unix.CAP_MKNOD)
	}
	return dropCapabilities(keep)
}

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
