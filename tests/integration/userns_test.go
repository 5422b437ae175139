//go:build integration

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// withUserNamespace moves the container's ids up by 100000.
func withUserNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	// More than a root of a user namespace may take by itself.
	s.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_MEMLOCK", Soft: 1 << 32, Hard: 1 << 32},
		{Type: "RLIMIT_NOFILE", Soft: 1 << 20, Hard: 1 << 20},
	}
	s.Process.OOMScoreAdj = new(int)
}

// TestUserNamespace has root of the container be somebody else on the share, as
// with a user namespace of the host's kernel, and also for exec.
func TestUserNamespace(t *testing.T) {
	noLeaks(t)
	volume := t.TempDir()
	must(t, os.Chown(volume, 100000, 100000))
	dir := bundle(t, []string{"sh", "-c", "id -u; echo $(cat /proc/self/uid_map); ulimit -Hn; touch /root-made /volume/made && echo ready; while :; do sleep 0.1; done"},
		withUserNamespace, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Source: volume, Type: "bind", Options: []string{"rbind", "nosuid"}})
		})
	rootfs := filepath.Join(dir, "rootfs")
	must(t, filepath.WalkDir(rootfs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 100000, 100000)
	}))
	id := newID()
	container := inBackground(t, "run", "-b", dir, id)
	container.out.wait(t, "0")
	container.out.wait(t, "0 100000 65536")
	container.out.wait(t, "1048576")
	container.out.wait(t, "ready")
	runv(t, nil, "exec", "--user", "7:8", id, "sh", "-c", "id -u; id -g; touch /volume/x 2>/dev/null || echo denied").expect(t, "7\n8\ndenied\n", "", 0)
	runv(t, nil, "exec", id, "sh", "-c", "echo $(cat /proc/self/uid_map); touch /volume/exec").expect(t, "0 100000 65536\n", "", 0)
	for _, name := range []string{filepath.Join(rootfs, "root-made"), filepath.Join(volume, "made"), filepath.Join(volume, "exec")} {
		st, err := os.Stat(name)
		must(t, err)
		if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 100000 || owner.Gid != 100000 {
			t.Errorf("%s belongs to %d:%d on the host; want 100000:100000", name, owner.Uid, owner.Gid)
		}
	}
	runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
	container.end(t)
}
