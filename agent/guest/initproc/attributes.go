package initproc

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// The limit of open files where the configuration has none, as service
// managers set it.
const (
	defaultNofileSoft = 1024
	defaultNofileHard = 524288
)

func setRlimits(limits []specs.POSIXRlimit) error {
	// In every case, so that the Go runtime does not restore what it found.
	var nofile unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &nofile); err != nil {
		return fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	// What is lowered here, a process in a user namespace cannot raise again.
	if !slices.ContainsFunc(limits, func(limit specs.POSIXRlimit) bool { return limit.Type == "RLIMIT_NOFILE" }) {
		nofile.Max = min(nofile.Max, defaultNofileHard)
	}
	nofile.Cur = min(nofile.Max, defaultNofileSoft)
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &nofile, nil); err != nil {
		return fmt.Errorf("set RLIMIT_NOFILE: %w", err)
	}
	for _, limit := range limits {
		value := unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}
		if err := unix.Prlimit(0, rlimits[limit.Type], &value, nil); err != nil {
			return limitError(limit, err)
		}
	}
	return nil
}

func limitError(limit specs.POSIXRlimit, err error) error {
	return fmt.Errorf("set %s to %d:%d: %w", limit.Type, limit.Soft, limit.Hard, err)
}

// setOOMScoreAdj writes through the agent's procfs. The agent's own value must
// not be inherited.
func setOOMScoreAdj(adj *int) error { return writeOOMScoreAdj("self", adj) }

func writeOOMScoreAdj(pid string, adj *int) error {
	value := 0
	if adj != nil {
		value = *adj
	}
	name := "/proc/" + pid + "/oom_score_adj"
	if err := os.WriteFile(name, strconv.AppendInt(nil, int64(value), 10), 0); err != nil {
		return fmt.Errorf("set oom_score_adj: %w", err)
	}
	return nil
}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther:    unix.SCHED_NORMAL,
	specs.SchedFIFO:     unix.SCHED_FIFO,
	specs.SchedRR:       unix.SCHED_RR,
	specs.SchedBatch:    unix.SCHED_BATCH,
	specs.SchedIdle:     unix.SCHED_IDLE,
	specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork:  unix.SCHED_FLAG_RESET_ON_FORK,
	specs.SchedFlagReclaim:      unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun:    unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy:   unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

func schedulerAttr(s *specs.Scheduler) (*unix.SchedAttr, error) {
	if s == nil {
		return nil, nil
	}
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		return nil, Invalid("process.scheduler: unknown policy %q", s.Policy)
	}
	attr := &unix.SchedAttr{
		Size:     unix.SizeofSchedAttr,
		Policy:   policy,
		Nice:     s.Nice,
		Priority: uint32(s.Priority),
		Runtime:  s.Runtime,
		Deadline: s.Deadline,
		Period:   s.Period,
	}
	for _, name := range s.Flags {
		flag, ok := schedFlags[name]
		if !ok {
			return nil, Invalid("process.scheduler: unknown flag %q", name)
		}
		attr.Flags |= flag
	}
	return attr, nil
}

var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT:   1,
	specs.IOPRIO_CLASS_BE:   2,
	specs.IOPRIO_CLASS_IDLE: 3,
}

// ioPriority is the argument of ioprio_set: the class above bit 13.
func ioPriority(p *specs.LinuxIOPriority) (int, error) {
	if p == nil {
		return 0, nil
	}
	class, ok := ioClasses[p.Class]
	if !ok {
		return 0, Invalid("process.ioPriority: unknown class %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, Invalid("process.ioPriority: %d is not within 0 and 7", p.Priority)
	}
	return class<<13 | p.Priority, nil
}

func setScheduling(p *specs.Process) error {
	attr, err := schedulerAttr(p.Scheduler)
	if err != nil {
		return err
	}
	if attr != nil {
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			return fmt.Errorf("set scheduler: %w", err)
		}
	}
	if p.IOPriority != nil {
		prio, err := ioPriority(p.IOPriority)
		if err != nil {
			return err
		}
		const whoProcess = 1
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(prio)); errno != 0 {
			return fmt.Errorf("set I/O priority: %w", errno)
		}
	}
	return nil
}

// parseCPUList reads a list such as "0-3,7"; an empty one is nil.
func parseCPUList(list string) (*unix.CPUSet, error) {
	if list == "" {
		return nil, nil
	}
	var set unix.CPUSet
	for _, item := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(item), "-")
		a, err := strconv.ParseUint(first, 10, 10)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(last, 10, 10)
		}
		if err != nil || b < a {
			return nil, Invalid("process.execCPUAffinity: invalid list %q", list)
		}
		for ; a <= b; a++ {
			set.Set(int(a))
		}
	}
	return &set, nil
}

func setAffinity(list string) error {
	set, err := parseCPUList(list)
	if err != nil || set == nil {
		return err
	}
	if err := unix.SchedSetaffinity(0, set); err == unix.EINVAL {
		return fmt.Errorf("set CPU affinity: the guest has no processor of %s: its %d are numbered from 0", list, runtime.NumCPU())
	} else if err != nil {
		return fmt.Errorf("set CPU affinity %s: %w", list, err)
	}
	return nil
}

var personalities = map[specs.LinuxPersonalityDomain]uintptr{
	specs.PerLinux:   0x0000,
	specs.PerLinux32: 0x0008,
}

func personality(p *specs.LinuxPersonality) (uintptr, error) {
	if p == nil {
		return 0, nil
	}
	domain, ok := personalities[p.Domain]
	if !ok {
		return 0, Invalid("linux.personality: unknown domain %q", p.Domain)
	}
	if len(p.Flags) > 0 {
		return 0, Unsupported("linux.personality: flags are not supported")
	}
	return domain, nil
}

func setPersonality(p *specs.LinuxPersonality) error {
	domain, err := personality(p)
	if err != nil || p == nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, domain, 0, 0); errno != 0 {
		return fmt.Errorf("set personality: %w", errno)
	}
	return nil
}
