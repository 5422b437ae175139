package initproc

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// timeClocks are the clocks that a time namespace moves: time_namespaces(7).
var timeClocks = []string{"monotonic", "boottime"}

func checkTimeOffsets(offsets map[string]specs.LinuxTimeOffset, namespace bool) error {
	if len(offsets) > 0 && !namespace {
		return Invalid("linux.timeOffsets without a time namespace in linux.namespaces")
	}
	known := 0
	for _, clock := range timeClocks {
		offset, ok := offsets[clock]
		if !ok {
			continue
		}
		known++
		if offset.Nanosecs >= 1e9 {
			return Invalid("linux.timeOffsets: %d nanoseconds for %s are a second or more", offset.Nanosecs, clock)
		}
	}
	if known < len(offsets) {
		return Invalid("linux.timeOffsets: there are offsets for monotonic and boottime only")
	}
	return nil
}

// setTimeOffsets moves the clocks of the time namespace that this thread has
// made and enters with execve. The file belongs to the thread that /proc/self
// is, which is this one.
func (c *child) setTimeOffsets(offsets map[string]specs.LinuxTimeOffset) error {
	var lines strings.Builder
	for _, clock := range timeClocks {
		if offset, ok := offsets[clock]; ok {
			fmt.Fprintf(&lines, "%s %d %d\n", clock, offset.Secs, offset.Nanosecs)
		}
	}
	if lines.Len() == 0 {
		return nil
	}
	if c.inUserNamespace() {
		// The files of a process that is not dumpable are the agent's. There is
		// nobody in the container yet who could look into this one.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
		defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }()
	}
	if err := os.WriteFile("/proc/self/timens_offsets", []byte(lines.String()), 0); err != nil {
		return fmt.Errorf("linux.timeOffsets: %w", err)
	}
	return nil
}
