//go:build integration

package integration

import (
	"fmt"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestJoinedName: a container that joins another's UTS namespace has its name,
// as those of a pod do.
func TestJoinedName(t *testing.T) {
	noLeaks(t)
	first := newID()
	container := inBackground(t, "run", "-b", bundle(t, []string{"sh", "-c", "hostname; while :; do sleep 0.1; done"}, func(s *specs.Spec) {
		s.Hostname = "the-pod"
	}), first)
	container.out.wait(t, "the-pod")
	path := fmt.Sprintf("/proc/%d/ns/uts", stateOf(t, first).Pid)
	dir := bundle(t, []string{"hostname"}, func(s *specs.Spec) {
		s.Hostname = ""
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.UTSNamespace {
				s.Linux.Namespaces[i].Path = path
			}
		}
	})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, "the-pod\n", "", 0)
	runv(t, nil, "kill", first, "KILL").expect(t, "", "", 0)
	container.end(t)
}
