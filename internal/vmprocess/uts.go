package vmprocess

import (
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// inheritUTS gives the guest the names of the UTS namespace that this process is
// in, where the container has none of its own: those of a pod, or the host's.
// What the configuration says comes first.
func inheritUTS(plan *spec.Plan) error {
	uts := slices.IndexFunc(plan.Namespaces, func(ns spec.Namespace) bool { return ns.Type == specs.UTSNamespace })
	switch {
	case uts >= 0 && plan.Namespaces[uts].Path == "":
		return nil
	case uts < 0 && slices.ContainsFunc(plan.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace }):
		// The container's root may not change the names that the guest began with.
		return nil
	}
	var names unix.Utsname
	if err := unix.Uname(&names); err != nil {
		return os.NewSyscallError("uname", err)
	}
	if plan.Spec.Hostname == "" {
		plan.Spec.Hostname = unix.ByteSliceToString(names.Nodename[:])
	}
	// The kernel's word for having none.
	if domain := unix.ByteSliceToString(names.Domainname[:]); plan.Spec.Domainname == "" && domain != "(none)" {
		plan.Spec.Domainname = domain
	}
	return nil
}
