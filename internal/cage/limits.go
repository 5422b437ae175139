package cage

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpenFiles is the limit on descriptors: a share needs one per file that the
// guest has in use. It is a bound as well.
const maxOpenFiles = 1 << 20

// MaxThreads bounds the threads of a VM process without its virtual processors;
// it is what the container's cgroup has for it. The Go runtime ends the process
// rather than make more.
const MaxThreads = 256

// nothing of these is needed, whatever the caller allows itself.
var zeroLimits = []struct {
	name     string
	resource int
}{
	{"RLIMIT_CORE", unix.RLIMIT_CORE},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE},
	{"RLIMIT_NICE", unix.RLIMIT_NICE},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO},
}

// Limit sets the resource limits and the OOM score of this process. It comes
// before anything that sizes itself by them, and before the root is entered.
func Limit(vcpus int, oomScoreAdj *int) error {
	if err := limitFiles(); err != nil {
		return err
	}
	for _, l := range zeroLimits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("%s: %w", l.name, os.NewSyscallError("setrlimit", err))
		}
	}
	debug.SetMaxThreads(MaxThreads + vcpus)
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

// limitFiles sets the limit on descriptors, or takes what there is.
func limitFiles() error {
	files := uint64(maxOpenFiles)
	if data, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if most, err := strconv.ParseUint(string(data[:max(len(data)-1, 0)]), 10, 64); err == nil {
			files = min(files, most)
		}
	}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
	if err == nil {
		return nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	limit.Max = min(limit.Max, files)
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", os.NewSyscallError("setrlimit", err))
	}
	return nil
}
