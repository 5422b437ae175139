package spec

import (
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ids(numbers ...uint32) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for i := 0; i < len(numbers); i += 3 {
		list = append(list, specs.LinuxIDMapping{ContainerID: numbers[i], HostID: numbers[i+1], Size: numbers[i+2]})
	}
	return list
}

// withMount has a configuration with one bind mount, and a user namespace if
// there are mappings for it.
func withMount(m specs.Mount, container []specs.LinuxIDMapping) func(*specs.Spec) {
	m.Source, m.Destination = "/source", "/destination"
	if m.Type == "" {
		m.Type = "bind"
	}
	return func(s *specs.Spec) {
		s.Mounts = []specs.Mount{m}
		if container != nil {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings, s.Linux.GIDMappings = container, container
		}
	}
}

func TestIDMap(t *testing.T) {
	container := ids(0, 0, 1, 1, 2, 1000)
	for _, c := range []struct {
		name  string
		mount specs.Mount
		want  *IDMap
	}{
		{"none", specs.Mount{Options: []string{"rbind", "ro"}}, nil},
		{"own", specs.Mount{UIDMappings: ids(0, 100000, 10), GIDMappings: ids(0, 200000, 10)},
			&IDMap{UIDs: ids(0, 100000, 10), GIDs: ids(0, 200000, 10)}},
		{"own and recursive", specs.Mount{UIDMappings: ids(0, 1, 1), GIDMappings: ids(0, 1, 1), Options: []string{"ridmap"}},
			&IDMap{UIDs: ids(0, 1, 1), GIDs: ids(0, 1, 1), Recursive: true}},
		{"container's", specs.Mount{Options: []string{"idmap"}}, &IDMap{UIDs: container, GIDs: container}},
		{"option", specs.Mount{Options: []string{"idmap=uids=0-1-10#10-11-10;gids=0-100-10"}},
			&IDMap{UIDs: ids(0, 1, 10, 10, 11, 10), GIDs: ids(0, 100, 10)}},
		{"relative", specs.Mount{Options: []string{"ridmap=uids=@1-3-10;gids=@0-0-1"}},
			&IDMap{UIDs: ids(1, 4, 10), GIDs: ids(0, 0, 1), Recursive: true}},
	} {
		s := minimal()
		withMount(c.mount, container)(s)
		p, err := New(s, "/bundle", Host{CPUs: 1, MemoryBytes: 4 << 30})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := p.Binds[0].IDMap; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v; want %+v", c.name, got, c.want)
		}
		m := p.Spec.Mounts[0]
		if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 || strings.Contains(strings.Join(m.Options, ","), "idmap") {
			t.Errorf("%s: the guest is told of it: %+v", c.name, m)
		}
		if len(p.Warnings) > 0 {
			t.Errorf("%s: warnings %q", c.name, p.Warnings)
		}
	}
}

func TestIDMapRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		mount specs.Mount
		want  string
	}{
		{"no mapping", specs.Mount{Options: []string{"idmap"}}, "no user namespace whose mappings"},
		{"no groups", specs.Mount{UIDMappings: ids(0, 1, 1)}, "gidMappings: missing"},
		{"no users", specs.Mount{GIDMappings: ids(0, 1, 1)}, "uidMappings: missing"},
		{"tmpfs", specs.Mount{Type: "tmpfs", Options: []string{"idmap"}}, "only a bind mount"},
		{"size", specs.Mount{UIDMappings: ids(0, 1, 0), GIDMappings: ids(0, 1, 1)}, "not a range"},
		{"overlap of the file system's", specs.Mount{UIDMappings: ids(0, 1, 5, 4, 100, 1), GIDMappings: ids(0, 1, 1)}, "overlap"},
		{"overlap of the mount's", specs.Mount{UIDMappings: ids(0, 1, 5, 10, 5, 1), GIDMappings: ids(0, 1, 1)}, "overlap"},
		{"both", specs.Mount{UIDMappings: ids(0, 1, 1), GIDMappings: ids(0, 1, 1), Options: []string{"idmap=uids=0-1-1;gids=0-1-1"}}, "contradict"},
		{"option without groups", specs.Mount{Options: []string{"idmap=uids=0-1-1"}}, "gidMappings: missing"},
		{"option of something else", specs.Mount{Options: []string{"idmap=x=0-1-1"}}, "neither uids"},
		{"option twice", specs.Mount{Options: []string{"idmap=uids=0-1-1;uids=0-1-1"}}, "uids twice"},
		{"no numbers", specs.Mount{Options: []string{"idmap=uids=0-1;gids=0-1-1"}}, "FROM-TO-SIZE"},
		{"letters", specs.Mount{Options: []string{"idmap=uids=0-a-1;gids=0-1-1"}}, "FROM-TO-SIZE"},
		{"relative to nothing", specs.Mount{Options: []string{"idmap=uids=@0-1-1;gids=0-1-1"}}, "not within one range"},
	} {
		s := minimal()
		withMount(c.mount, nil)(s)
		_, err := New(s, "/bundle", Host{CPUs: 1, MemoryBytes: 4 << 30})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "mounts[0] (/destination)") {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// TestRelativeDestination: deprecated by the specification, and still allowed.
func TestRelativeDestination(t *testing.T) {
	s := minimal()
	s.Mounts = []specs.Mount{
		{Destination: "a/../b", Type: "bind", Source: "/x"},
		{Destination: "run", Type: "tmpfs"},
	}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Binds[0].Destination; got != "/b" {
		t.Errorf("the bind is at %q; want /b", got)
	}
	if got := []string{p.Spec.Mounts[0].Destination, p.Spec.Mounts[1].Destination}; got[0] != "/a/../b" || got[1] != "/run" {
		t.Errorf("the guest is told %q", got)
	}
	if len(p.Warnings) != 2 || !strings.Contains(p.Warnings[1], "mounts[1] (run): the destination is not an absolute path") {
		t.Errorf("warnings %q", p.Warnings)
	}
}
