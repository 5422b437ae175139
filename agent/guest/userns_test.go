package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/client"
)

// withUserNamespace gives a container a user namespace with its ids moved up.
func withUserNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 2000}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 2000}}
}

// newUserHarness has a root file system of the container's root.
func newUserHarness(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	// Its root has to get to the place where the agent mounts the root.
	if err := os.Chmod(filepath.Dir(h.rootfs), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(h.rootfs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 100000, 200000)
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestUserNamespace(t *testing.T) {
	h := newUserHarness(t)
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		script string
		want   []string
	}{
		{"ids", nil, "id -u; id -g; id -G; tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map",
			[]string{"0", "0", "0", " 0 100000 2000", " 0 200000 2000"}},
		{"files", nil, "touch /data/root; chown 5:6 /data/root; stat -c '%u %g' /data/root /", []string{"5 6", "0 0"}},
		{"user", func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7}} },
			"id -u; id -g; id -G; touch /dev/stdout && echo own > /dev/stdout", []string{"1000", "1001", "1001 7", "own"}},
		{"its other namespaces", func(s *specs.Spec) {
			admin := []string{"CAP_SYS_ADMIN"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Permitted: admin, Effective: admin}
		}, "hostname x && hostname; mount -t tmpfs none /data && stat -f -c %T /data; test -e /sys/kernel && echo sys; ls /sys/fs/cgroup/cgroup.procs",
			[]string{"x", "tmpfs", "sys", "/sys/fs/cgroup/cgroup.procs"}},
		{"devices", nil, "echo x >/dev/null && head -c 1 /dev/zero | wc -c; stat -c %F /dev/tty /dev/full", []string{"1", "character special file", "character special file"}},
		{"limits and score", func(s *specs.Spec) {
			s.Process.OOMScoreAdj = ptr(55)
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 55, Hard: 66}}
		}, "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn", []string{"55", "55", "66"}},
		{"sysctls", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.shmmax": "123456", "net.ipv4.ip_default_ttl": "77"}
		}, "cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_default_ttl", []string{"123456", "77"}},
		{"read-only and masked", func(s *specs.Spec) {
			s.Root = &specs.Root{Path: "/", Readonly: true}
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/keys"}, []string{"/proc/sys"}
		}, "touch /x 2>/dev/null || echo ro; wc -c </proc/keys; grep -c ' /proc/sys proc ro' /proc/mounts", []string{"ro", "0", "1"}},
		{"not root outside", nil, "chown 0:0 /data; mknod /data/null c 1 3 2>/dev/null || echo no; dmesg -c >/dev/null 2>&1 || echo no", []string{"no", "no"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			spec := defaultSpec()
			withUserNamespace(spec)
			if tt.change != nil {
				tt.change(spec)
			}
			spec.Process.Args = []string{"sh", "-c", tt.script}
			r, err := h.run(spec, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.TrimRight(r.stdout, "\n"), "\n")
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q, stderr %q; want %q", got, r.stderr, tt.want)
			}
		})
	}
	h.t = t
	st, err := os.Stat(h.rootfs + "/data/root")
	if err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 100005 || owner.Gid != 200006 {
		t.Errorf("what 5:6 owns in the container belongs to %d:%d; want 100005:200006", owner.Uid, owner.Gid)
	}
}

func TestExecInUserNamespace(t *testing.T) {
	h := newUserHarness(t)
	first := defaultSpec("sleep", "1000")
	withUserNamespace(first)
	h.start(first)
	for _, tt := range []struct {
		name   string
		user   specs.User
		script string
		want   string
	}{
		{"all", specs.User{}, "for n in user mnt pid uts ipc cgroup; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done; id -u", "0\n"},
		{"user", specs.User{UID: 9, GID: 8}, "id -u; id -g; echo own >/dev/stdout; grep CapEff /proc/self/status", "9\n8\nown\nCapEff:\t0000000000000000\n"},
	} {
		process := defaultSpec("sh", "-c", tt.script).Process
		process.User = tt.user
		r, err := h.exec(tt.name, process)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.stdout != tt.want {
			t.Errorf("%s: stdout %q, stderr %q; want %q", tt.name, r.stdout, r.stderr, tt.want)
		}
	}
	process := defaultSpec("true").Process
	process.User.UID = 5000
	if _, err := h.exec("unmapped", process); !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "5000:0 is not in") {
		t.Errorf("a user that is not mapped: %v", err)
	}
}

func TestMappings(t *testing.T) {
	h := newHarness(t)
	for text, change := range map[string]func(*specs.Spec){
		"linux.gidMappings: missing":     func(s *specs.Spec) { s.Linux.GIDMappings = nil },
		"root (0) is not mapped":         func(s *specs.Spec) { s.Linux.UIDMappings[0].ContainerID = 1 },
		"not a range of ids":             func(s *specs.Spec) { s.Linux.UIDMappings[0].Size = 1<<32 - 1 },
		"without a user namespace":       func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"process.user: 0:4000 is not in": func(s *specs.Spec) { s.Process.User.GID = 4000 },
	} {
		spec := defaultSpec("true")
		withUserNamespace(spec)
		change(spec)
		if _, err := h.run(spec, nil); !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v; want %q", err, text)
		}
	}
}
