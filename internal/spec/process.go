package spec

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CheckProcess validates the process of an exec and has it as the guest is to
// apply it. All problems found are in the one error.
func CheckProcess(proc *specs.Process) (guest *specs.Process, warnings []string, err error) {
	p := &planner{}
	p.process("process", proc)
	if err := p.err(); err != nil {
		return nil, nil, err
	}
	return guestProcess(proc), p.plan.Warnings, nil
}

// guestProcess is a valid process for the guest.
func guestProcess(proc *specs.Process) *specs.Process {
	g := *proc
	if proc.Capabilities != nil {
		g.Capabilities = knownCapabilities(proc.Capabilities)
	}
	return &g
}

// process validates what describes a process, of the container or of an exec.
func (p *planner) process(at string, proc *specs.Process) {
	if proc == nil {
		p.refuse(at, "missing")
		return
	}
	p.plan.Terminal = proc.Terminal
	if proc.ConsoleSize != nil && (proc.ConsoleSize.Height > 65535 || proc.ConsoleSize.Width > 65535) {
		p.refuse(at+".consoleSize", "more than 65535 rows or columns")
	}
	if len(proc.Args) == 0 {
		p.refuse(at+".args", "empty: name the program to run")
	} else if proc.Args[0] == "" {
		p.refuse(at+".args", "the program's name is empty")
	}
	for _, arg := range proc.Args {
		if hasNUL(arg) {
			p.refuse(at+".args", "contains a NUL byte")
			break
		}
	}
	for _, env := range proc.Env {
		name, _, ok := strings.Cut(env, "=")
		switch {
		case hasNUL(env):
			p.refuse(at+".env", "contains a NUL byte")
		case !ok:
			p.refuse(at+".env", "%q has no '='", env)
		case name == "":
			p.refuse(at+".env", "%q has no name", env)
		}
	}
	switch {
	case proc.Cwd == "":
		p.refuse(at+".cwd", "missing")
	case !path.IsAbs(proc.Cwd):
		p.refuse(at+".cwd", "%q is not an absolute path", proc.Cwd)
	case hasNUL(proc.Cwd):
		p.refuse(at+".cwd", "contains a NUL byte")
	}
	if proc.CommandLine != "" {
		p.refuse(at+".commandLine", "is for Windows: use args")
	}
	if proc.User.Username != "" {
		p.refuse(at+".user.username", "is for Windows: use uid and gid")
	}
	if proc.User.Umask != nil && *proc.User.Umask > 0o777 {
		p.refuse(at+".user.umask", "%#o has bits outside 0777", *proc.User.Umask)
	}
	if proc.OOMScoreAdj != nil && (*proc.OOMScoreAdj < -1000 || *proc.OOMScoreAdj > 1000) {
		p.refuse(at+".oomScoreAdj", "%d is outside -1000..1000", *proc.OOMScoreAdj)
	}
	p.rlimits(at, proc.Rlimits)
	p.capabilities(at, proc.Capabilities)
	if !heldByVM(proc.ApparmorProfile) {
		p.refuse(at+".apparmorProfile", "%q: the guest kernel has no AppArmor, and the VM holds only what an engine's default profile does (use unconfined)", proc.ApparmorProfile)
	}
	if proc.SelinuxLabel != "" {
		p.refuse(at+".selinuxLabel", "the guest kernel has no SELinux (with podman: --security-opt label=disable)")
	}
	if affinity := proc.ExecCPUAffinity; affinity != nil {
		p.set(at+".execCPUAffinity.initial", affinity.Initial)
		p.set(at+".execCPUAffinity.final", affinity.Final)
	}
	p.scheduling(at, proc)
}

// heldByVM reports whether nothing is lost without an AppArmor profile: those
// that engines give every container on a host with AppArmor keep the host's
// mounts, /proc and /sys from it, none of which is there in a VM.
func heldByVM(profile string) bool {
	switch profile {
	case "", "unconfined", "docker-default", "nerdctl-default", "cri-containerd.apparmor.d", "crio-default":
		return true
	}
	// podman's and buildah's has the version of their library in its name.
	version, ok := strings.CutPrefix(profile, "containers-default-")
	return ok && strings.Trim(version, "0123456789.") == "" && version != ""
}

func (p *planner) rlimits(at string, limits []specs.POSIXRlimit) {
	seen := make(map[string]bool)
	for _, limit := range limits {
		switch {
		case !rlimitNames[limit.Type]:
			p.refuse(at+".rlimits", "%q is not a resource limit", limit.Type)
		case seen[limit.Type]:
			p.refuse(at+".rlimits", "%s is set twice", limit.Type)
		case limit.Soft > limit.Hard:
			p.refuse(at+".rlimits", "%s: the soft limit %d is above the hard limit %d", limit.Type, limit.Soft, limit.Hard)
		}
		seen[limit.Type] = true
	}
}

var rlimitNames = set(
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS",
	"RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC",
	"RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
)

func (p *planner) capabilities(at string, caps *specs.LinuxCapabilities) {
	if caps == nil {
		return
	}
	p.plan.DeviceNodes = slices.Contains(caps.Bounding, "CAP_MKNOD")
	unknown := make(map[string]bool)
	for _, list := range [][]string{caps.Bounding, caps.Effective, caps.Inheritable, caps.Permitted, caps.Ambient} {
		for _, name := range list {
			if !capabilityNames[name] && !unknown[name] {
				unknown[name] = true
				// The specification asks for a warning here, not for a refusal.
				p.warn(at+".capabilities", "%q is not a capability and is not granted", name)
			}
		}
	}
}

// knownCapabilities is caps without the names that no kernel interface has.
func knownCapabilities(caps *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	known := func(list []string) []string {
		var out []string
		for _, name := range list {
			if capabilityNames[name] {
				out = append(out, name)
			}
		}
		return out
	}
	return &specs.LinuxCapabilities{
		Bounding:    known(caps.Bounding),
		Effective:   known(caps.Effective),
		Inheritable: known(caps.Inheritable),
		Permitted:   known(caps.Permitted),
		Ambient:     known(caps.Ambient),
	}
}

var capabilityNames = set(
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)

// scheduling validates what sched_setattr(2) and ioprio_set(2) are to get.
func (p *planner) scheduling(at string, proc *specs.Process) {
	if s := proc.Scheduler; s != nil {
		if !schedulerPolicies[string(s.Policy)] {
			p.refuse(at+".scheduler.policy", "%q is not a scheduling policy", s.Policy)
		}
		if s.Nice < -20 || s.Nice > 19 {
			p.refuse(at+".scheduler.nice", "%d is outside -20..19", s.Nice)
		}
		realtime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
		switch {
		case s.Priority < 0 || s.Priority > 99:
			p.refuse(at+".scheduler.priority", "%d is outside 0..99", s.Priority)
		case s.Priority != 0 && !realtime:
			p.refuse(at+".scheduler.priority", "only SCHED_FIFO and SCHED_RR have a priority")
		}
		if s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
			p.refuse(at+".scheduler", "only SCHED_DEADLINE has a runtime, deadline and period")
		}
		for _, flag := range s.Flags {
			if !schedulerFlags[string(flag)] {
				p.refuse(at+".scheduler.flags", "%q is not a scheduling flag", flag)
			}
		}
	}
	if io := proc.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok {
			p.refuse(at+".ioPriority.class", "%q is not an I/O scheduling class", io.Class)
		}
		if io.Priority < 0 || io.Priority > 7 {
			p.refuse(at+".ioPriority.priority", "%d is outside 0..7", io.Priority)
		}
		p.plan.IOPriority = class<<13 | io.Priority
	}
}

// ioClasses are the kernel's numbers of the I/O scheduling classes.
var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT:   1,
	specs.IOPRIO_CLASS_BE:   2,
	specs.IOPRIO_CLASS_IDLE: 3,
}

var schedulerPolicies = set("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE")

var schedulerFlags = set(
	"SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_KEEP_POLICY",
	"SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX",
)

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[name] = true
	}
	return m
}
