package initproc

import (
	"math"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container in a user namespace has its first process born in one, with the
// mappings of the configuration: what they call host ids are the guest's, and
// the share's. All other namespaces are made in there, and so belong to it.
// What such a process may not do, though it is root in its namespace, the agent
// does for it.

// checkMappings refuses mappings that the kernel would not take, or with which
// there would be no root to set the container up.
func checkMappings(property string, mappings []specs.LinuxIDMapping) error {
	if len(mappings) == 0 {
		return Invalid("%s: missing, though there is a user namespace", property)
	}
	root := false
	for _, m := range mappings {
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			return Invalid("%s: %d ids from %d (container) and %d (host): not a range of ids", property, m.Size, m.ContainerID, m.HostID)
		}
		root = root || m.ContainerID == 0
	}
	if !root {
		return Invalid("%s: the container's root (0) is not mapped", property)
	}
	return nil
}

// HostID is what an id of the container is in the guest. Without mappings it is
// the same.
func HostID(mappings []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return id, len(mappings) == 0
}

// mountTree puts a copy of the mounts at the agent's path source on target. The
// kernel does not let a user namespace take a part of them only.
func mountTree(source string, target int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// notOwned are file systems that a user namespace may not mount when the
// namespace that they show is not its own; there is the agent's then.
var notOwned = map[string]bool{"sysfs": true, "proc": true, "cgroup2": true}

func (r *rootfs) mountAgents(kind string, target int) error {
	switch kind {
	case "proc":
		return mountTree("/proc", target)
	case "cgroup2":
		return mountTree("/sys/fs/cgroup", target)
	}
	return os.NewSyscallError("move_mount",
		unix.MoveMount(r.sysfs, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// ownSysctl tells whether a sysctl belongs to a namespace that the container
// may have of its own, other than the network namespace.
func ownSysctl(name string) bool {
	for _, prefix := range []string{"kernel/shm", "kernel/msg", "kernel/sem", "kernel/hostname", "kernel/domainname", "fs/mqueue/"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// splitSysctls has those that the child sets in its namespaces, and those that
// only the agent may.
func splitSysctls(values map[string]string) (own, agents map[string]string) {
	own, agents = make(map[string]string), make(map[string]string)
	for key, value := range values {
		if name, err := sysctlPath(key); err == nil && !ownSysctl(name) {
			agents[key] = value
		} else {
			own[key] = value
		}
	}
	return own, agents
}

// Assist does for the process pid, which is in a user namespace and about to be
// configured, what it may not do itself. fds are its streams.
func Assist(pid int, cfg *Config, linux *specs.Linux, fds []int) error {
	if err := writeOOMScoreAdj(strconv.Itoa(pid), cfg.Process.OOMScoreAdj); err != nil {
		return err
	}
	// Only raised here: the process lowers them once it is set up.
	for _, limit := range cfg.Process.Rlimits {
		resource := rlimits[limit.Type]
		var now unix.Rlimit
		if err := unix.Prlimit(pid, resource, nil, &now); err != nil {
			return limitError(limit, err)
		}
		if limit.Hard > now.Max {
			now.Max = limit.Hard
			if err := unix.Prlimit(pid, resource, &now, nil); err != nil {
				return limitError(limit, err)
			}
		}
	}
	uid, uidMapped := HostID(linux.UIDMappings, cfg.Process.User.UID)
	gid, gidMapped := HostID(linux.GIDMappings, cfg.Process.User.GID)
	if !uidMapped || !gidMapped {
		return Invalid("process.user: %d:%d is not in linux.uidMappings and gidMappings", cfg.Process.User.UID, cfg.Process.User.GID)
	}
	return giveStreams(fds, uid, gid)
}

// AssistSysctls sets the sysctls that a process in a user namespace may not set.
func AssistSysctls(values map[string]string) (warnings []string, err error) {
	_, agents := splitSysctls(values)
	if len(agents) == 0 {
		return nil, nil
	}
	sys, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /proc/sys", err)
	}
	defer unix.Close(sys)
	return writeSysctls(sys, agents)
}
