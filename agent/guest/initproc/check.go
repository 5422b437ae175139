package initproc

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the namespaces a container may have of its own in the
// guest.
var namespaceFlags = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace:    unix.CLONE_NEWPID,
	specs.MountNamespace:  unix.CLONE_NEWNS,
	specs.IPCNamespace:    unix.CLONE_NEWIPC,
	specs.UTSNamespace:    unix.CLONE_NEWUTS,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
	specs.UserNamespace:   unix.CLONE_NEWUSER,
	specs.TimeNamespace:   unix.CLONE_NEWTIME,
}

// CheckSpec refuses what cannot be done in a guest, so that no field that
// describes the container is passed over. It returns the CLONE_NEW flags of the
// namespaces the container gets; a mount namespace is always among them, and
// the network namespace is the guest's.
func CheckSpec(spec *specs.Spec) (namespaces int, err error) {
	if spec == nil || spec.Process == nil {
		return 0, Invalid("the configuration has no process")
	}
	if err := CheckProcess(spec.Process); err != nil {
		return 0, err
	}
	for i := range spec.Mounts {
		if err := checkMount(&spec.Mounts[i]); err != nil {
			return 0, err
		}
	}
	if spec.Hooks != nil {
		for _, hook := range spec.Hooks.StartContainer {
			if !path.IsAbs(hook.Path) {
				return 0, Invalid("hooks.startContainer: path %q is not absolute", hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return 0, Invalid("hooks.startContainer: timeout %d of %s is not positive", *hook.Timeout, hook.Path)
			}
		}
	}
	namespaces = unix.CLONE_NEWNS
	if spec.Linux == nil {
		return namespaces, nil
	}
	flags, err := checkLinux(spec.Linux)
	return namespaces | flags, err
}

func checkLinux(linux *specs.Linux) (namespaces int, err error) {
	seen := make(map[specs.LinuxNamespaceType]bool)
	for _, ns := range linux.Namespaces {
		if seen[ns.Type] {
			return 0, Invalid("linux.namespaces: %s is listed twice", ns.Type)
		}
		seen[ns.Type] = true
		flag, known := namespaceFlags[ns.Type]
		switch {
		case ns.Type == specs.NetworkNamespace:
			continue
		case !known:
			return 0, Invalid("linux.namespaces: unknown type %q", ns.Type)
		case ns.Path != "":
			return 0, Unsupported("linux.namespaces: the guest cannot join the %s namespace %s of the host", ns.Type, ns.Path)
		}
		namespaces |= flag
	}
	if namespaces&unix.CLONE_NEWUSER != 0 {
		if err := checkMappings("linux.uidMappings", linux.UIDMappings); err != nil {
			return 0, err
		}
		if err := checkMappings("linux.gidMappings", linux.GIDMappings); err != nil {
			return 0, err
		}
	} else if len(linux.UIDMappings) > 0 || len(linux.GIDMappings) > 0 {
		return 0, Invalid("linux.uidMappings and gidMappings without a user namespace in linux.namespaces")
	}
	if err := checkTimeOffsets(linux.TimeOffsets, seen[specs.TimeNamespace]); err != nil {
		return 0, err
	}
	switch {
	case len(linux.NetDevices) > 0:
		return 0, Unsupported("linux.netDevices are not supported: the guest has no network device")
	case linux.IntelRdt != nil:
		return 0, Unsupported("linux.intelRdt is not supported inside the guest")
	case linux.MemoryPolicy != nil:
		return 0, Unsupported("linux.memoryPolicy is not supported: the guest has one memory node")
	}
	if _, ok := propagation[linux.RootfsPropagation]; !ok && linux.RootfsPropagation != "" {
		return 0, Invalid("linux.rootfsPropagation: unknown value %q", linux.RootfsPropagation)
	}
	for _, paths := range [][]string{linux.MaskedPaths, linux.ReadonlyPaths} {
		for _, p := range paths {
			if !path.IsAbs(p) {
				return 0, Invalid("linux.maskedPaths or readonlyPaths: %q is not absolute", p)
			}
		}
	}
	if _, err := personality(linux.Personality); err != nil {
		return 0, err
	}
	for key := range linux.Sysctl {
		if _, err := sysctlPath(key); err != nil {
			return 0, err
		}
	}
	for i := range linux.Devices {
		if _, err := deviceMode(&linux.Devices[i]); err != nil {
			return 0, err
		}
	}
	return namespaces, nil
}

// CheckProcess refuses a process object that cannot be right.
func CheckProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return Invalid("process.args must not be empty")
	case !path.IsAbs(p.Cwd):
		return Invalid("process.cwd %q is not an absolute path", p.Cwd)
	}
	hasNUL := func(s string) bool { return strings.IndexByte(s, 0) >= 0 }
	if slices.ContainsFunc(p.Args, hasNUL) || hasNUL(p.Cwd) {
		return Invalid("process.args and process.cwd must not contain a NUL byte")
	}
	for _, env := range p.Env {
		if hasNUL(env) {
			return Invalid("process.env: %.32q contains a NUL byte", env)
		}
	}
	seen := make(map[string]bool)
	for _, limit := range p.Rlimits {
		if _, known := rlimits[limit.Type]; !known {
			return Invalid("process.rlimits: unknown type %q", limit.Type)
		}
		if seen[limit.Type] {
			return Invalid("process.rlimits: %s is listed twice", limit.Type)
		}
		seen[limit.Type] = true
		if limit.Soft > limit.Hard {
			return Invalid("process.rlimits: %s: soft limit %d is above hard limit %d", limit.Type, limit.Soft, limit.Hard)
		}
	}
	if adj := p.OOMScoreAdj; adj != nil && (*adj < -1000 || *adj > 1000) {
		return Invalid("process.oomScoreAdj: %d is not within -1000 and 1000", *adj)
	}
	if _, err := schedulerAttr(p.Scheduler); err != nil {
		return err
	}
	if _, err := ioPriority(p.IOPriority); err != nil {
		return err
	}
	if p.ExecCPUAffinity != nil {
		for _, list := range []string{p.ExecCPUAffinity.Initial, p.ExecCPUAffinity.Final} {
			if _, err := parseCPUList(list); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkMount(m *specs.Mount) error {
	if m.Destination == "" || strings.IndexByte(m.Destination, 0) >= 0 {
		return Invalid("mounts: invalid destination %q", m.Destination)
	}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return Unsupported("mounts: %s: idmapped mounts are not supported inside the guest", m.Destination)
	}
	o := parseMountOptions(m.Options)
	if o.idmap {
		return Unsupported("mounts: %s: idmapped mounts are not supported inside the guest", m.Destination)
	}
	if o.copyUp && (o.bind || m.Type != "tmpfs") {
		return Invalid("mounts: %s: tmpcopyup is only for tmpfs", m.Destination)
	}
	if m.Type == "" && !o.bind {
		return Invalid("mounts: %s has no type", m.Destination)
	}
	return nil
}
