package guest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/client"
)

func ptr[T any](v T) *T { return &v }

// TestAttributes changes one thing of a configuration and looks at it from
// inside.
func TestAttributes(t *testing.T) {
	h := newHarness(t)
	if err := errors.Join(os.MkdirAll(h.rootfs+"/kept/.lower", 0o755), os.Chmod(h.rootfs+"/kept/.lower", 0o740), os.Chown(h.rootfs+"/kept/.lower", 3, 3), os.Mkdir(h.rootfs+"/narrow", 0o710)); err != nil {
		t.Fatal(err)
	}
	write(t, h.rootfs+"/kept/.lower/file", "kept", 0o644)
	write(t, h.rootfs+"/data/file", "content", 0o644)
	if err := os.Symlink("/../../../../tmp", h.rootfs+"/data/escape"); err != nil {
		t.Fatal(err)
	}
	all := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	tests := []struct {
		name   string
		change func(*specs.Spec)
		script string
		want   []string
	}{
		{"user", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}, Umask: ptr(uint32(0o27))}
		}, "id -u; id -g; id -G; umask; echo $HOME; grep CapPrm /proc/self/status",
			[]string{"1000", "1001", "1001 7 8", "0027", "/home/alice", "CapPrm:\t0000000000000000"}},
		{"user without an entry", func(s *specs.Spec) { s.Process.User.UID = 4242 }, "echo $HOME; touch /dev/stdout && echo x > /dev/stdout", []string{"/", "x"}},
		{"no groups", nil, "id -G; umask", []string{"0", "0022"}},
		{"capability sets", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding: all, Permitted: all, Effective: all[:1], Inheritable: all[1:2], Ambient: nil,
			}
			s.Process.User.UID = 1000
		}, "grep Cap /proc/self/status", []string{
			"CapInh:\t0000000000000020", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000421", "CapAmb:\t0000000000000000"}},
		{"ambient capabilities", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding: all, Permitted: all, Effective: all, Inheritable: all, Ambient: all[2:],
			}
			s.Process.User.UID = 1000
		}, "grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status", []string{
			"CapPrm:\t0000000000000400", "CapEff:\t0000000000000400", "CapAmb:\t0000000000000400"}},
		{"ambient capabilities that are not inheritable", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding: all, Permitted: all, Effective: all, Inheritable: all[:1], Ambient: all,
			}
			s.Process.User.UID = 1000
		}, "grep -E 'Cap(Prm|Amb)' /proc/self/status", []string{"CapPrm:\t0000000000000001", "CapAmb:\t0000000000000001"}},
		{"no capabilities", func(s *specs.Spec) { s.Process.Capabilities = nil },
			"grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status", []string{
				"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"}},
		{"no_new_privs", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, "grep NoNewPrivs /proc/self/status", []string{"NoNewPrivs:\t1"}},
		{"rlimits", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 4096},
			}
		}, "ulimit -Sn; ulimit -Hn; ulimit -Hc", []string{"100", "200", "8"}},
		{"oom_score_adj", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(321) }, "cat /proc/self/oom_score_adj", []string{"321"}},
		{"default oom_score_adj", nil, "cat /proc/self/oom_score_adj", []string{"0"}},
		{"scheduler", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
		}, "cut -d' ' -f19,41 /proc/self/stat", []string{"5 3"}},
		{"io priority", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, "ionice -p 1", []string{"best-effort: prio 6"}},
		{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
			"uname -m", []string{"i686"}},
		{"cwd is made", func(s *specs.Spec) { s.Process.Cwd = "/new/deep" }, "pwd", []string{"/new/deep"}},
		{"domainname", func(s *specs.Spec) { s.Domainname = "example" }, "cat /proc/sys/kernel/domainname", []string{"example"}},
		{"sysctl", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.shmmni": "4095", "net/ipv4/ip_forward": "1"}
		}, "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward", []string{"4095", "1"}},
		{"read-only root", func(s *specs.Spec) { s.Root.Readonly = true }, "touch /x 2>&1; touch /dev/x && echo fine", []string{"touch: /x: Read-only file system", "fine"}},
		{"writable root", nil, "touch /x && rm /x && echo fine", []string{"fine"}},
		{"read-only paths", nil, "echo x 2>/dev/null > /proc/sys/kernel/hostname || echo ro", []string{"ro"}},
		{"masked paths", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/data/file", "/etc", "/none"} },
			"cat /data/file | wc -c; ls /etc | wc -l; touch /etc/x 2>/dev/null || echo ro", []string{"0", "0", "ro"}},
		{"tmpfs", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"size=64k", "mode=1777", "noexec", "uid=5"}})
		}, "grep ' /tmp ' /proc/mounts", []string{"tmpfs /tmp tmpfs rw,noexec,relatime,size=64k,uid=5 0 0"}},
		{"read-only /dev", func(s *specs.Spec) {
			for i := range s.Mounts {
				if s.Mounts[i].Destination == "/dev" {
					s.Mounts[i].Options = append(s.Mounts[i].Options, "ro")
				}
			}
		}, "grep -c '^tmpfs /dev tmpfs ro,' /proc/mounts; touch /dev/x 2>/dev/null || echo ro; echo x >/dev/null && ls -d /dev/pts /dev/shm", []string{"1", "ro", "/dev/pts", "/dev/shm"}},
		{"read-only tmpfs with a mount inside", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Options: []string{"ro"}}, specs.Mount{Destination: "/mnt/in", Type: "tmpfs"})
		}, "touch /mnt/x 2>/dev/null || echo ro; touch /mnt/in/x && echo rw", []string{"ro", "rw"}},
		{"tmpfs with the content below", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Options: []string{"tmpcopyup", "ro"}})
		}, "cat /data/file; touch /data/x 2>/dev/null || echo ro; stat -c '%a %u' /data", []string{"contentro", "755 0"}},
		{"tmpfs with the content below and another mode", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Options: []string{"mode=700", "tmpcopyup", "gid=7"}})
		}, "stat -c '%a %u %g' /data", []string{"700 0 7"}},
		{"tmpfs with content that the host keeps below", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/kept", Type: "tmpfs", Options: []string{"tmpcopyup=.lower"}})
		}, "ls -A /kept; cat /kept/file; stat -c ' %a %u' /kept", []string{"file", "kept 740 3"}},
		{"tmpfs on a directory of another mode", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/narrow", Type: "tmpfs"})
		}, "stat -c %a /narrow", []string{"710"}},
		{"tmpfs where nothing was", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/was/not/there", Type: "tmpfs"})
		}, "stat -c %a /was /was/not /was/not/there", []string{"755", "755", "1777"}},
		{"bind in place, read-only", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/data", Options: []string{"rbind", "ro", "nosuid"}})
		}, "touch /data/x 2>/dev/null || echo ro; grep ' /data ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1,2", []string{"ro", "ro,nosuid"}},
		{"bind of a file into a tmpfs", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/run", Type: "tmpfs"},
				specs.Mount{Destination: "/run/a/secret", Source: "/data/file", Options: []string{"bind", "ro"}})
		}, "cat /run/a/secret; echo; echo x 2>/dev/null > /run/a/secret || echo ro", []string{"content", "ro"}},
		{"bind of what a mount hides", func(s *specs.Spec) {
			s.Mounts = append([]specs.Mount{
				{Destination: "/data", Type: "tmpfs"},
				{Destination: "/data/file", Source: "/data/file", Options: []string{"bind"}},
			}, s.Mounts...)
		}, "ls /data; cat /data/file", []string{"file", "content"}},
		{"no way out through a link", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data/escape/sub", Type: "tmpfs"})
		}, "grep -c ' /tmp/sub ' /proc/mounts", []string{"1"}},
		{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
			`awk '$5 == "/"' /proc/self/mountinfo | grep -c shared:`, []string{"1"}},
		{"no propagation", nil, `awk '$5 == "/"' /proc/self/mountinfo | grep -c -e shared: -e master:`, []string{"0"}},
		{"device", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/my/zero", Type: "c", Major: 1, Minor: 5, FileMode: ptr(os.FileMode(0o640)), GID: ptr(uint32(9))},
				{Path: "/dev/fifo", Type: "p"},
			}
		}, "stat -c '%F %a %g %t %T' /dev/my/zero /dev/fifo", []string{"character special file 640 9 1 5", "fifo 666 0 0 0"}},
		{"a default device of another owner", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, FileMode: ptr(os.FileMode(0o600)), UID: ptr(uint32(8))},
			}
		}, "stat -c '%a %u %t %T' /dev/full /dev/zero", []string{"600 8 1 7", "666 0 1 5"}},
		{"tty device and links", nil, "stat -c %F /dev/tty; readlink /dev/ptmx; readlink /dev/fd",
			[]string{"character special file", "pts/ptmx", "/proc/self/fd"}},
		{"own cgroup", nil, "cat /proc/self/cgroup | grep ^0; test -e /sys/fs/cgroup/cgroup.procs && echo mounted", []string{"0::/", "mounted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			spec := defaultSpec()
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
	if list, err := filepath.Glob("/tmp/sub"); err != nil || len(list) > 0 {
		t.Errorf("a mount point outside of the root: %q, %v", list, err)
	}
}

func TestSetupFailures(t *testing.T) {
	h := newHarness(t)
	if err := os.Symlink("/tmp", h.rootfs+"/data/link"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*specs.Spec)
		text   string
		is     error
	}{
		{"device the kernel lacks", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 240, Minor: 3}}
		}, "the guest has no block device 240:3", client.ErrUnsupported},
		{"missing bind source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/missing", Options: []string{"bind"}})
		}, "no such file or directory", nil},
		{"unknown file system", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs"})
		}, "no such device", nil},
		{"proc on a link", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data/link", Type: "proc"})
		}, "proc must be mounted on ordinary directory", client.ErrInvalid},
		{"unknown mount option", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"nonsense=1"}})
		}, "invalid argument", nil},
		{"unknown option of a bind mount", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/data", Options: []string{"bind", "nonsense"}})
		}, `unknown option "nonsense"`, client.ErrInvalid},
		{"unknown sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"no.such": "1"} }, "sysctl no.such", nil},
		{"sysctl that leads out", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel/../../self/comm": "1"} }, "invalid name", client.ErrInvalid},
		{"masked link", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"relative"} }, "not absolute", client.ErrInvalid},
		{"terminal without a stream for it", func(s *specs.Spec) { s.Process.Terminal = true }, "process.terminal", client.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			spec := defaultSpec("true")
			tt.change(spec)
			_, err := h.run(spec, nil)
			if err == nil || !strings.Contains(err.Error(), tt.text) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v; want %q", err, tt.text)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("true")
	caps := spec.Process.Capabilities
	caps.Bounding = append(caps.Bounding, "CAP_NONSENSE")
	caps.Inheritable, caps.Ambient = nil, []string{"CAP_CHOWN"}
	r := h.mustRun(spec)
	if w := r.created.Warnings; len(w) != 2 || !strings.Contains(w[0], "CAP_NONSENSE") || !strings.Contains(w[1], "ambient") {
		t.Errorf("warnings %q", r.created.Warnings)
	}
}

func TestStartContainerHook(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("cat", "/tmp/hook")
	spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /tmp/hook; echo $A >> /tmp/hook"}, Env: []string{"A=1", "PATH=/bin"},
	}}}
	p := h.open(nil)
	if _, err := h.client.Create(h.ctx, client.CreateOptions{ID: "c1", Spec: marshal(t, spec), RootfsTag: h.rootfs, Stdio: p.stdio}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Start(h.ctx, "c1", []byte(`{"id":"c1"}`)); err != nil {
		t.Fatal(err)
	}
	p.wg.Wait()
	if got := p.out[0].String(); got != "{\"id\":\"c1\"}1\n" {
		t.Errorf("the hook got %q", got)
	}
	if err := h.client.Delete(h.ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	spec.Hooks.StartContainer[0].Args = []string{"sh", "-c", "echo why >&2; exit 3"}
	_, err := h.run(spec, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why") {
		t.Errorf("failed hook: %v", err)
	}
}
