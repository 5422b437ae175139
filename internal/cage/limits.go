package cage

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// Limits on descriptors. A share needs one per file that the guest has in use,
// and each costs the host's kernel about 1.6 KiB that it cannot take back. So
// they follow the guest's RAM, which is what the guest pays for its side of them.
const (
	minOpenFiles    = 1 << 16
	maxOpenFiles    = 1 << 20
	memoryPerOpened = 8 << 10
)

func openFiles(ram uint64) uint64 {
	return min(max(ram/memoryPerOpened, minOpenFiles), maxOpenFiles)
}

// MaxThreads bounds the threads of a VM process, its virtual processors included;
// the container's cgroup has room for as many (package spec). The Go runtime ends
// the process rather than make more.
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

// Limit sets the resource limits and the OOM score of this process, whose guest
// has so many bytes of RAM. It comes before anything that sizes itself by them,
// and before the root is entered.
func Limit(ram uint64, oomScoreAdj *int) error {
	if err := limitFiles(openFiles(ram)); err != nil {
		return err
	}
	for _, l := range zeroLimits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("%s: %w", l.name, os.NewSyscallError("setrlimit", err))
		}
	}
	debug.SetMaxThreads(MaxThreads)
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
func limitFiles(files uint64) error {
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
