package vmprocess

import (
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// shareUTS brings the names of the guest and of the UTS namespace that this
// process is in together. A new namespace gets the container's, for others that
// join it, as those of a pod do. From one that was joined, or the host's, the
// guest gets what its configuration does not say.
func shareUTS(plan *spec.Plan) error {
	uts := slices.IndexFunc(plan.Namespaces, func(ns spec.Namespace) bool { return ns.Type == specs.UTSNamespace })
	switch {
	case uts >= 0 && plan.Namespaces[uts].Path == "":
		return nameUTS(plan.Spec.Hostname, plan.Spec.Domainname)
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

// nameUTS names this process's UTS namespace; an empty name stays as it is.
func nameUTS(hostname, domainname string) error {
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if domainname != "" {
		if err := unix.Setdomainname([]byte(domainname)); err != nil {
			return os.NewSyscallError("setdomainname", err)
		}
	}
	return nil
}
