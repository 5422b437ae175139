package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/loopback"
	"runv.dev/runv/internal/spec"
)

// ownNetwork is the network namespace of the calling process.
const ownNetwork = "/proc/self/ns/net"

// CheckNetwork refuses to set kernel parameters of the network namespace that
// the caller is in.
func CheckNetwork(plan *spec.Plan) error {
	ns, given := networkNamespace(plan)
	if len(plan.NetSysctls) == 0 || !given || ns.Path == "" {
		return nil
	}
	theirs, err := os.Stat(ns.Path)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	ours, err := os.Stat(ownNetwork)
	if err != nil {
		return err
	}
	if os.SameFile(ours, theirs) {
		return fmt.Errorf("linux.sysctl: %s would change the host: %s is its network namespace", plan.NetSysctls[0].File, ns.Path)
	}
	return nil
}

func networkNamespace(plan *spec.Plan) (ns spec.Namespace, given bool) {
	i := slices.IndexFunc(plan.Namespaces, func(ns spec.Namespace) bool { return ns.Type == specs.NetworkNamespace })
	if i < 0 {
		return ns, false
	}
	return plan.Namespaces[i], true
}

// PrepareNetwork sets the network namespace up that this process is in: a new
// one gets its loopback device, and all get the kernel parameters that the
// configuration has for them. hosts are HostNetworks. It comes before Enter and
// Confine.
func PrepareNetwork(plan *spec.Plan, hosts []string) error {
	if ns, given := networkNamespace(plan); given && ns.Path == "" {
		if err := loopback.Up(); err != nil {
			return fmt.Errorf("bring the loopback device up: %w", err)
		}
	}
	if err := allowPing(hosts); err != nil {
		return err
	}
	for _, sysctl := range plan.NetSysctls {
		if err := setSysctl(sysctl); err != nil {
			return fmt.Errorf("linux.sysctl: %w", err)
		}
	}
	return nil
}

const (
	pingGroups = "net/ipv4/ping_group_range"
	nobody     = "1\t0" // the kernel's default
)

// allowPing lets root's group open ICMP echo sockets in this thread's network
// namespace, unless that is one of hosts or somebody has said who may: as podman
// does. ping's other way, a raw socket, does not leave the guest.
func allowPing(hosts []string) error {
	host, err := InNetwork(hosts)
	if err != nil || host {
		return err
	}
	groups, err := os.ReadFile("/proc/sys/" + pingGroups)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(groups)) != nobody {
		return nil
	}
	if err != nil {
		return err
	}
	err = setSysctl(spec.Sysctl{File: pingGroups, Value: "0 0"})
	if errors.Is(err, unix.EINVAL) {
		return nil // the namespace's user namespace has no such group
	}
	return err
}

func setSysctl(s spec.Sysctl) error {
	f, err := os.OpenFile("/proc/sys/"+s.File, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.Value)
	return errors.Join(err, f.Close())
}
