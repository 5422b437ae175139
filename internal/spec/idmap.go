package spec

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// IDMap is the mapping of an id-mapped mount: an id of the file system
// (ContainerID) appears in the share as another one (HostID).
type IDMap struct {
	UIDs, GIDs []specs.LinuxIDMapping
	Recursive  bool // also of the mounts below
}

// maxExtents is how many ranges a user namespace can have, see
// user_namespaces(7), but for one that the VM process may need.
const maxExtents = 340 - 1

// idMap has the id mapping of a mount; nil: it has none. It comes from the
// mount's own mappings, from an option in the form that crun has and engines
// use (idmap=uids=0-1000-1;gids=0-1000-1), or else from the user namespace.
func (p *planner) idMap(at string, m specs.Mount) *IDMap {
	var asked, recursive bool
	var value string
	for _, option := range m.Options {
		name, v, valued := strings.Cut(option, "=")
		if name == "idmap" || name == "ridmap" {
			asked, recursive = true, recursive || name == "ridmap"
			if valued {
				value = v
			}
		}
	}
	own := len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0
	if !asked && !own {
		return nil
	}
	if !isBind(m) {
		p.refuse(at, "only a bind mount can be id-mapped")
		return nil
	}
	mapping := &IDMap{UIDs: m.UIDMappings, GIDs: m.GIDMappings, Recursive: recursive}
	switch {
	case own && value != "":
		p.refuse(at, "id mappings and the option idmap=%s contradict each other", value)
		return nil
	case own:
	case value != "":
		var err error
		if mapping.UIDs, mapping.GIDs, err = parseIDMap(value, p.in.Linux); err != nil {
			p.refuse(at, "idmap=%s: %v", value, err)
			return nil
		}
	default:
		if l := p.in.Linux; l != nil {
			mapping.UIDs, mapping.GIDs = l.UIDMappings, l.GIDMappings
		}
		if len(mapping.UIDs) == 0 {
			p.refuse(at, "id-mapped without uidMappings and gidMappings, and there is no user namespace whose mappings could be taken")
			return nil
		}
	}
	for _, list := range []struct {
		property string
		ids      []specs.LinuxIDMapping
	}{{"uidMappings", mapping.UIDs}, {"gidMappings", mapping.GIDs}} {
		if err := checkExtents(list.ids); err != nil {
			p.refuse(at, "%s: %v", list.property, err)
		}
	}
	return mapping
}

// checkExtents finds what the kernel would refuse.
func checkExtents(list []specs.LinuxIDMapping) error {
	if len(list) == 0 {
		return fmt.Errorf("missing: an id mapping is of users and groups")
	}
	if len(list) > maxExtents {
		return fmt.Errorf("%d ranges: at most %d", len(list), maxExtents)
	}
	for i, m := range list {
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			return fmt.Errorf("%d ids from %d (file system) and %d (mount): not a range of ids", m.Size, m.ContainerID, m.HostID)
		}
		for _, other := range list[:i] {
			if overlap(m.ContainerID, other.ContainerID, m.Size, other.Size) || overlap(m.HostID, other.HostID, m.Size, other.Size) {
				return fmt.Errorf("the ranges from %d and from %d overlap", other.ContainerID, m.ContainerID)
			}
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// parseIDMap reads uids=RANGES;gids=RANGES, where the ranges are FROM-TO-SIZE
// with # in between. After an @, TO is an id of the container.
func parseIDMap(value string, l *specs.Linux) (uids, gids []specs.LinuxIDMapping, err error) {
	for part := range strings.SplitSeq(value, ";") {
		name, ranges, _ := strings.Cut(part, "=")
		var list *[]specs.LinuxIDMapping
		var container []specs.LinuxIDMapping
		switch name {
		case "uids":
			list = &uids
			if l != nil {
				container = l.UIDMappings
			}
		case "gids":
			list = &gids
			if l != nil {
				container = l.GIDMappings
			}
		default:
			return nil, nil, fmt.Errorf("%q is neither uids=… nor gids=…", part)
		}
		if *list != nil {
			return nil, nil, fmt.Errorf("%s twice", name)
		}
		if *list, err = parseRanges(ranges, container); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return uids, gids, nil
}

func parseRanges(text string, container []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for r := range strings.SplitSeq(text, "#") {
		numbers, relative := strings.CutPrefix(r, "@")
		var ids []uint32
		for number := range strings.SplitSeq(numbers, "-") {
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q is not FROM-TO-SIZE", r)
			}
			ids = append(ids, uint32(id))
		}
		if len(ids) != 3 {
			return nil, fmt.Errorf("%q is not FROM-TO-SIZE", r)
		}
		m := specs.LinuxIDMapping{ContainerID: ids[0], HostID: ids[1], Size: ids[2]}
		if relative {
			// The range is in one of the container's.
			i := slices.IndexFunc(container, func(c specs.LinuxIDMapping) bool {
				return m.HostID >= c.ContainerID && uint64(m.HostID)+uint64(m.Size) <= uint64(c.ContainerID)+uint64(c.Size)
			})
			if i < 0 {
				return nil, fmt.Errorf("%q: not within one range of the container's user namespace", r)
			}
			m.HostID = container[i].HostID + (m.HostID - container[i].ContainerID)
		}
		list = append(list, m)
	}
	return list, nil
}

// isIDMapOption tells whether an option of a mount is about its id mapping,
// which is the host's to do.
func isIDMapOption(option string) bool {
	name, _, _ := strings.Cut(option, "=")
	return name == "idmap" || name == "ridmap"
}
