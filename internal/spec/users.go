package spec

import (
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// userNamespace validates the user namespace, which is one of the guest's: the
// VM process is in none. What the mappings call host ids are the ids that the
// share has, so that files belong to whom they would on the host's kernel.
func (p *planner) userNamespace(l *specs.Linux) {
	i := slices.IndexFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	for _, ids := range []struct {
		property string
		mappings []specs.LinuxIDMapping
	}{
		{"linux.uidMappings", l.UIDMappings},
		{"linux.gidMappings", l.GIDMappings},
	} {
		switch {
		case i < 0 && len(ids.mappings) > 0:
			p.refuse(ids.property, "mappings without a user namespace in linux.namespaces")
		case i >= 0 && len(ids.mappings) == 0 && l.Namespaces[i].Path != "":
			p.refuse(ids.property, "missing: a user namespace of the host cannot be joined from a VM: give the mappings of the one to join")
		case i >= 0 && len(ids.mappings) == 0:
			p.refuse(ids.property, "missing, though there is a user namespace")
		case i >= 0:
			p.mappings(ids.property, ids.mappings)
		}
	}
}

// mappings validates ranges of ids. Without the container's root nobody could
// set the container up.
func (p *planner) mappings(property string, mappings []specs.LinuxIDMapping) {
	root := false
	for _, m := range mappings {
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			p.refuse(property, "%d ids from %d (container) and %d (host): not a range of ids", m.Size, m.ContainerID, m.HostID)
		}
		root = root || m.ContainerID == 0
	}
	if !root {
		p.refuse(property, "the container's root (0) is not mapped")
	}
}
