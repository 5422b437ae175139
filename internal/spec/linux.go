package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func indexed(list string, i int, name string) string {
	return fmt.Sprintf("%s[%d] (%s)", list, i, name)
}

func (p *planner) linux() {
	l := p.in.Linux
	if l == nil {
		return
	}
	p.namespaces(l.Namespaces)
	p.userNamespace(l)
	p.sysctls(l.Sysctl)
	p.cgroup(l)
	p.devices(l.Devices)
	if len(l.NetDevices) > 0 {
		p.refuse("linux.netDevices", "network devices cannot be moved into a VM")
	}
	p.seccomp(l.Seccomp)
	switch l.RootfsPropagation {
	// Shared and unbindable are between the container and the mount namespaces
	// made in it, in the guest: nothing of its root reaches the host elsewhere.
	case "", "slave", "rslave", "shared", "rshared":
	case "private", "rprivate", "unbindable", "runbindable":
		p.plan.RootfsPrivate = true
	default:
		p.refuse("linux.rootfsPropagation", "%q is not a propagation mode", l.RootfsPropagation)
	}
	p.guestPaths("linux.maskedPaths", l.MaskedPaths)
	p.guestPaths("linux.readonlyPaths", l.ReadonlyPaths)
	if l.MountLabel != "" {
		p.refuse("linux.mountLabel", "the guest kernel has no SELinux (with podman: --security-opt label=disable)")
	}
	if l.IntelRdt != nil {
		p.refuse("linux.intelRdt", "not supported")
	}
	if l.MemoryPolicy != nil {
		p.refuse("linux.memoryPolicy", "a VM has one NUMA node")
	}
	if per := l.Personality; per != nil {
		if per.Domain != specs.PerLinux && per.Domain != specs.PerLinux32 {
			p.refuse("linux.personality.domain", "%q is not a personality", per.Domain)
		}
		if len(per.Flags) > 0 {
			p.refuse("linux.personality.flags", "no flag is defined")
		}
	}
	p.timeOffsets(l)
}

func (p *planner) namespaces(list []specs.LinuxNamespace) {
	seen := make(map[specs.LinuxNamespaceType]bool)
	for i, ns := range list {
		at := indexed("linux.namespaces", i, string(ns.Type))
		if seen[ns.Type] {
			p.refuse(at, "given twice")
			continue
		}
		seen[ns.Type] = true
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			p.refuse(at, "the path %q is not absolute", ns.Path)
		}
		if hasNUL(ns.Path) {
			p.refuse(at, "the path contains a NUL byte")
		}
		switch ns.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
			p.plan.Namespaces = append(p.plan.Namespaces, Namespace(ns))
		case specs.MountNamespace:
			if ns.Path != "" {
				p.refuse(at, "joining a mount namespace is not supported: the VM process always gets its own")
			}
		case specs.UserNamespace: // the guest's: see userNamespace
		case specs.TimeNamespace: // the guest's, too
			if ns.Path != "" {
				p.refuse(at, "the time namespace is the guest's: one of the host cannot be joined")
			}
		default:
			p.refuse(at, "not a namespace type")
		}
	}
}

// timeOffsets checks what the guest does with its clocks.
func (p *planner) timeOffsets(l *specs.Linux) {
	own := slices.ContainsFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.TimeNamespace })
	if len(l.TimeOffsets) > 0 && !own {
		p.refuse("linux.timeOffsets", "there is no time namespace in linux.namespaces")
	}
	for _, clock := range sortedKeys(l.TimeOffsets) {
		if clock != "monotonic" && clock != "boottime" {
			p.refuse("linux.timeOffsets", "%q is not a clock with an offset: these are monotonic and boottime", clock)
		} else if n := l.TimeOffsets[clock].Nanosecs; n >= 1e9 {
			p.refuse("linux.timeOffsets", "%d nanoseconds for %s are a second or more", n, clock)
		}
	}
}

// sysctls checks the names only: all of the guest's kernel parameters are the
// container's own. Those of the network are set in the network namespace as
// well, where the sockets are.
func (p *planner) sysctls(list map[string]string) {
	own := slices.ContainsFunc(p.plan.Namespaces, func(ns Namespace) bool { return ns.Type == specs.NetworkNamespace })
	for _, key := range sortedKeys(list) {
		clean := key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == ""
		if !clean || strings.HasPrefix(key, "/") || strings.HasPrefix(key, ".") || strings.Contains(key, "..") {
			p.refuse("linux.sysctl", "%q is not the name of a kernel parameter", key)
		}
		if strings.ContainsAny(list[key], "\x00\n") {
			p.refuse("linux.sysctl", "the value of %s has a line break or NUL byte", key)
		}
		file := sysctlFile(key)
		if !strings.HasPrefix(file, "net/") {
			continue
		}
		if !own {
			p.refuse("linux.sysctl", "%s would change the host: the container has no network namespace of its own", key)
		}
		p.plan.NetSysctls = append(p.plan.NetSysctls, Sysctl{File: file, Value: list[key]})
	}
}

// sysctlFile is the file of a sysctl below /proc/sys. As with sysctl(8), the
// first separator tells whether dots or slashes separate the parts.
func sysctlFile(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		return strings.NewReplacer(".", "/", "/", ".").Replace(key)
	}
	return key
}

// guestDevices are the device nodes that mean the same in every Linux guest.
var guestDevices = map[[2]int64]bool{
	{1, 3}: true, {1, 5}: true, {1, 7}: true, {1, 8}: true, {1, 9}: true, // null zero full random urandom
	{1, 11}: true,                             // kmsg: the guest kernel's log
	{5, 0}:  true, {5, 1}: true, {5, 2}: true, // tty console ptmx
	{10, 200}: true, {10, 229}: true, // net/tun fuse
}

// devices checks the nodes that are asked for. --privileged of an engine asks
// for all that the host has: those that a VM lacks are one problem.
func (p *planner) devices(list []specs.LinuxDevice) {
	seen := make(map[string]bool)
	var missing []string
	for i, d := range list {
		at := indexed("linux.devices", i, d.Path)
		switch {
		case !path.IsAbs(d.Path) || path.Clean(d.Path) == "/":
			p.refuse(at, "the path is not absolute")
		case hasNUL(d.Path):
			p.refuse(at, "the path contains a NUL byte")
		case seen[path.Clean(d.Path)]:
			p.refuse(at, "given twice")
		}
		seen[path.Clean(d.Path)] = true
		switch d.Type {
		case "p":
		case "c", "u", "b":
			if !inGuest(d) {
				missing = append(missing, d.Path)
			}
		default:
			p.refuse(at, "%q is not a device type", d.Type)
		}
		if d.FileMode != nil && *d.FileMode > 0o7777 {
			// podman passes the file type along with the permissions.
			if *d.FileMode&^0o177777 != 0 {
				p.refuse(at, "fileMode %#o has bits outside 07777", uint32(*d.FileMode))
			}
		}
	}
	if len(missing) == 0 {
		return
	}
	names := strings.Join(missing[:min(len(missing), maxNames)], ", ")
	if more := len(missing) - maxNames; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	if p.in.Annotations[AnnotationDevices] == DevicesAvailable {
		p.warn("linux.devices", "left out, as the VM has no such device: %s", names)
		return
	}
	p.refuse("linux.devices", "the VM has no such device: %s (the annotation %s=%s leaves them out)", names, AnnotationDevices, DevicesAvailable)
}

// maxNames is how many names a message lists.
const maxNames = 8

// inGuest tells whether a device exists in the guest.
func inGuest(d specs.LinuxDevice) bool {
	switch d.Type {
	case "b":
		return false
	case "c", "u":
		return guestDevices[[2]int64{d.Major, d.Minor}]
	}
	return true
}

func (p *planner) seccomp(s *specs.LinuxSeccomp) {
	if s == nil {
		return
	}
	if s.ListenerPath != "" || s.ListenerMetadata != "" {
		p.refuse("linux.seccomp.listenerPath", "a host process cannot be the seccomp agent of a VM")
	}
	if s.DefaultAction == "" {
		p.refuse("linux.seccomp.defaultAction", "missing")
	}
	actions := []specs.LinuxSeccompAction{s.DefaultAction}
	for _, call := range s.Syscalls {
		actions = append(actions, call.Action)
		if len(call.Names) == 0 {
			p.refuse("linux.seccomp.syscalls", "an entry has no names")
		}
		for _, arg := range call.Args {
			if arg.Index > 5 {
				p.refuse("linux.seccomp.syscalls", "%s: a system call has no argument %d", strings.Join(call.Names, ","), arg.Index)
			}
		}
	}
	if slices.Contains(actions, specs.ActNotify) {
		p.refuse("linux.seccomp", "SCMP_ACT_NOTIFY is not supported: a host process cannot be the seccomp agent of a VM")
	}
}

func (p *planner) guestPaths(property string, list []string) {
	for _, name := range list {
		if !path.IsAbs(name) || hasNUL(name) {
			p.refuse(property, "%q is not an absolute path", name)
		}
	}
}
