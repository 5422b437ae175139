package guest

import (
	"fmt"
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/initproc"
)

// mapUsers has the process born in a user namespace of its own, as its root.
func mapUsers(sys *syscall.SysProcAttr, linux *specs.Linux) {
	sys.Cloneflags |= unix.CLONE_NEWUSER
	sys.UidMappings, sys.GidMappings = idMaps(linux.UIDMappings), idMaps(linux.GIDMappings)
	sys.GidMappingsEnableSetgroups = true
	sys.Credential = &syscall.Credential{}
}

func idMaps(mappings []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	maps := make([]syscall.SysProcIDMap, len(mappings))
	for i, m := range mappings {
		maps[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return maps
}

// assist does what a container's first process may not do in its user namespace:
// among other things the agent mounts its root file system where the process
// will find it. sys is a sysfs for it. done takes both away again.
func (a *Agent) assist(c *child, cfg *initproc.Config, streams []int) (sys int, done func(), err error) {
	linux := cfg.Spec.Linux
	if err := initproc.Assist(c.pid, cfg, linux, streams); err != nil {
		return -1, nil, err
	}
	warnings, err := initproc.AssistSysctls(linux.Sysctl)
	if err != nil {
		return -1, nil, err
	}
	// Without what is mounted below, which the process could not take off.
	sys, err = unix.OpenTree(unix.AT_FDCWD, "/sys", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, nil, fmt.Errorf("/sys: %w", os.NewSyscallError("open_tree", err))
	}
	for _, w := range warnings {
		a.log.Warn(w)
	}
	a.rootMount.Lock()
	if err := cfg.Rootfs.Mount(); err != nil {
		a.rootMount.Unlock()
		unix.Close(sys)
		return -1, nil, err
	}
	return sys, func() {
		defer a.rootMount.Unlock()
		unix.Close(sys)
		if err := unix.Unmount(cfg.Rootfs.Target, unix.MNT_DETACH); err != nil {
			a.log.Warn("unmount a container's root", "error", fmt.Errorf("%s: %w", cfg.Rootfs.Target, err))
		}
	}, nil
}
