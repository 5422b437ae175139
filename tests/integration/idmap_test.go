//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestIDMappedMount has a volume whose files belong to other ids in the
// container than on the host, seen by its root and written by a user.
func TestIDMappedMount(t *testing.T) {
	noLeaks(t)
	volume := t.TempDir()
	must(t, os.WriteFile(filepath.Join(volume, "file"), []byte("x"), 0o600))
	must(t, os.Chown(filepath.Join(volume, "file"), 5000, 6000))
	must(t, os.Chown(volume, 5000, 6000))
	dir := bundle(t, []string{"sh", "-c", "stat -c %u:%g /volume/file /plain/file; touch /volume/root 2>/dev/null || echo denied; id -u"},
		func(s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/volume", Source: volume, Type: "bind", Options: []string{"rbind", "idmap"},
					UIDMappings: []specs.LinuxIDMapping{{ContainerID: 5000, HostID: 7, Size: 1}},
					GIDMappings: []specs.LinuxIDMapping{{ContainerID: 6000, HostID: 8, Size: 1}}},
				specs.Mount{Destination: "/plain", Source: volume, Type: "bind", Options: []string{"rbind", "ro"}})
		})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, "7:8\n5000:6000\ndenied\n0\n", "", 0)

	dir = bundle(t, []string{"sh", "-c", "touch /volume/made; stat -c %u:%g /volume/made; chgrp 9 /volume/made 2>/dev/null || echo refused"}, func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 7, GID: 8}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Source: volume, Type: "bind",
			Options: []string{"rbind", "idmap=uids=5000-7-1;gids=6000-8-1"}})
	})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, "7:8\nrefused\n", "", 0)
	st, err := os.Stat(filepath.Join(volume, "made"))
	must(t, err)
	if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 5000 || owner.Gid != 6000 {
		t.Errorf("the file made through the mount belongs to %d:%d on the host; want 5000:6000", owner.Uid, owner.Gid)
	}
}
