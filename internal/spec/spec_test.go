package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var host = Host{CPUs: 8, MemoryBytes: 16 << 30}

func ptr[T any](v T) *T { return &v }

// minimal is the smallest configuration that is accepted.
func minimal() *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
	}
}

func TestMinimal(t *testing.T) {
	p, err := New(minimal(), "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if p.Rootfs != "/bundle/rootfs" {
		t.Errorf("rootfs %q", p.Rootfs)
	}
	if p.Machine != (Machine{VCPUs: 4, MemoryBytes: 2 << 30}) {
		t.Errorf("machine %+v", p.Machine)
	}
	if p.Spec.Root.Path != "/" {
		t.Errorf("the guest learns the host path %q", p.Spec.Root.Path)
	}
}

// TestEngines has configurations as engines write them.
func TestEngines(t *testing.T) {
	files, err := filepath.Glob("testdata/accepted/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Parse(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if _, err := New(s, "/bundle", host); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "empty"},
		{" \n", "empty"},
		{"{", "line 1, column 1 (offset 1): invalid JSON"},
		{"{\n  \"ociVersion\": \"1.0.2\",\n  oops\n}", "line 3, column 3 (offset 30): invalid JSON"},
		{"{}x", "line 1, column 3 (offset 3): invalid JSON"},
		{"[]", "the document is a JSON array"},
		{"{\n\"process\": {\"args\": \"sh\"}}", "line 2, column 24 (offset 26): process.args is a JSON string where a []string is expected"},
		{`{"process": {"user": {"uid": -1}}}`, "process.user.uid is a JSON number -1"},
	} {
		_, err := Parse([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%q) = %v; want %q", c.in, err, c.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir)
	if err == nil || !strings.Contains(err.Error(), "no such file") || !strings.Contains(err.Error(), "--bundle") {
		t.Errorf("no config.json: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte("{nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Load(dir)
	if err == nil || !strings.Contains(err.Error(), ConfigName) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("bad config.json: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*specs.Spec)
		want string
	}{
		{"no version", func(s *specs.Spec) { s.Version = "" }, "ociVersion: missing"},
		{"version", func(s *specs.Spec) { s.Version = "2.0.0" }, "ociVersion: 2.0.0 is not supported"},
		{"bad version", func(s *specs.Spec) { s.Version = "1.x" }, "not a version"},
		{"no process", func(s *specs.Spec) { s.Process = nil }, "process: missing"},
		{"no args", func(s *specs.Spec) { s.Process.Args = nil }, "process.args: empty"},
		{"empty program", func(s *specs.Spec) { s.Process.Args = []string{""} }, "program's name"},
		{"NUL in args", func(s *specs.Spec) { s.Process.Args = []string{"a\x00"} }, "NUL"},
		{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, "process.cwd: missing"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, "not an absolute path"},
		{"env without =", func(s *specs.Spec) { s.Process.Env = []string{"A"} }, "no '='"},
		{"env without name", func(s *specs.Spec) { s.Process.Env = []string{"=A"} }, "no name"},
		{"umask", func(s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0o1000)) }, "umask"},
		{"oom", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(1001) }, "outside -1000..1000"},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, "not a resource limit"},
		{"rlimit twice", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}
		}, "set twice"},
		{"rlimit soft", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} }, "above the hard"},
		{"apparmor", func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, "AppArmor"},
		{"apparmor, like a default", func(s *specs.Spec) { s.Process.ApparmorProfile = "containers-default-mine" }, "AppArmor"},
		{"selinux", func(s *specs.Spec) { s.Process.SelinuxLabel = "x" }, "SELinux"},
		{"scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_X"} }, "not a scheduling policy"},
		{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "3-1"} }, "process.execCPUAffinity.initial"},
		{"affinity elsewhere", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-1", Final: "4,5"} }, "process.execCPUAffinity.final: the VM has none of the processors 4,5: its 4"},
		{"affinity at last", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "x"} }, "process.execCPUAffinity.final"},
		{"priority", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Priority: 1} }, "have a priority"},
		{"ioprio", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_RT", Priority: 8}
		}, "0..7"},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "root: missing"},
		{"no root path", func(s *specs.Spec) { s.Root.Path = "" }, "root.path: missing"},
		{"host root", func(s *specs.Spec) { s.Root.Path = "/usr/.." }, "host's own root"},
		{"hostname", func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, "hostname: longer"},
		{"relative hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "x"}}} }, "hooks.poststart[0].path"},
		{"hook without time", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/x"}, {Path: "/x", Timeout: new(int)}}}
		}, "hooks.startContainer[1].timeout"},
		{"NUL in a hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Args: []string{"a\x00"}}}}
		}, "hooks.createRuntime[0]"},
		{"windows", func(s *specs.Spec) { s.Windows = &specs.Windows{} }, "windows: not a Linux"},
		{"kernel", func(s *specs.Spec) { s.VM = &specs.VM{Kernel: specs.VMKernel{Path: "/evil"}} }, "vm.kernel"},
		{"hypervisor", func(s *specs.Spec) { s.VM = &specs.VM{Hypervisor: specs.VMHypervisor{Path: "/evil"}} }, "vm.hypervisor"},

		{"tmpcopyup of something else", mount(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"tmpcopyup=/etc"}}), "takes no value"},
		{"mount without destination", mount(specs.Mount{Type: "tmpfs"}), "no destination"},
		{"mount over relative root", mount(specs.Mount{Destination: "a/..", Type: "tmpfs"}), "root directory"},
		{"mount over root", mount(specs.Mount{Destination: "/a/..", Type: "tmpfs"}), "root directory"},
		{"mount type", mount(specs.Mount{Destination: "/a", Type: "ext4"}), `"ext4" is not supported`},
		{"no mount type", mount(specs.Mount{Destination: "/a"}), "has no type"},
		{"bind source", mount(specs.Mount{Destination: "/a", Type: "bind"}), "needs a source"},
		{"bind option", mount(specs.Mount{Destination: "/a", Type: "bind", Source: "/b", Options: []string{"sise"}}), `option "sise"`},
		{"bind of proc", mount(specs.Mount{Destination: "/a", Type: "bind", Source: "/proc/1"}), "host's /proc"},
		{"bind of sys", mount(specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys"}), "host's /sys"},
		{"shared", mount(specs.Mount{Destination: "/a", Type: "bind", Source: "/b", Options: []string{"rshared"}}), "cannot propagate"},

		{"namespace twice", namespace(specs.LinuxNamespace{Type: "pid"}, specs.LinuxNamespace{Type: "pid"}), "given twice"},
		{"namespace", namespace(specs.LinuxNamespace{Type: "x"}), "not a namespace type"},
		{"user namespace", namespace(specs.LinuxNamespace{Type: "user"}), "uidMappings: missing"},
		{"user namespace to join", namespace(specs.LinuxNamespace{Type: "user", Path: "/proc/1/ns/user"}), "give the mappings of the one to join"},
		{"time namespace to join", namespace(specs.LinuxNamespace{Type: "time", Path: "/proc/1/ns/time"}), "cannot be joined"},
		{"mount namespace", namespace(specs.LinuxNamespace{Type: "mount", Path: "/x"}), "joining a mount namespace"},
		{"relative namespace", namespace(specs.LinuxNamespace{Type: "network", Path: "x"}), "not absolute"},
		{"mappings", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "without a user namespace"},
		{"no root", users(1, 100000, 10), "root (0) is not mapped"},
		{"empty range", users(0, 100000, 0), "not a range of ids"},
		{"range to nowhere", users(0, 1<<32-2, 10), "not a range of ids"},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"../x": "1"} }, "not the name of a kernel parameter"},
		{"sysctl of the host's network", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Linux.Namespaces = nil
		}, "would change the host"},
		{"sysctl value", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a.b": "1\n2"} }, "line break"},
		{"block device", device(specs.LinuxDevice{Path: "/dev/sda", Type: "b", Major: 8}), "the VM has no such device: /dev/sda"},
		{"char device", device(specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}), "the VM has no such device: /dev/kvm (the annotation run.oci.runv.devices=available leaves them out)"},
		{"device path", device(specs.LinuxDevice{Path: "null", Type: "c", Major: 1, Minor: 3}), "not absolute"},
		{"device type", device(specs.LinuxDevice{Path: "/dev/x", Type: "z"}), "not a device type"},
		{"net devices", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }, "netDevices"},
		{"seccomp listener", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", ListenerPath: "/x"}
		}, "listenerPath"},
		{"seccomp notify", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []specs.LinuxSyscall{{Names: []string{"open"}, Action: specs.ActNotify}}}
		}, "SCMP_ACT_NOTIFY"},
		{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "loud" }, "not a propagation mode"},
		{"masked", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"x"} }, "maskedPaths"},
		{"label", func(s *specs.Spec) { s.Linux.MountLabel = "x" }, "mountLabel"},
		{"rdt", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "intelRdt"},
		{"numa", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }, "memoryPolicy"},
		{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} }, "personality"},
		{"time offsets", func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
		}, "no time namespace"},
		{"time offset", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "time"}}
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
		}, "realtime"},
		{"nanoseconds", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "time"}}
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Nanosecs: 1e9}}
		}, "a second or more"},
		{"systemd cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "machine.slice:runv:x" }, "systemd driver"},
		{"cgroup root", func(s *specs.Spec) { s.Linux.CgroupsPath = "/../.." }, "root of the hierarchy"},
		{"huge pages", func(s *specs.Spec) {
			s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}
		}, "hugepageLimits"},
		{"net class", func(s *specs.Spec) { s.Linux.Resources.Network = &specs.LinuxNetwork{ClassID: ptr(uint32(1))} }, "network controller"},
		{"rdma", func(s *specs.Spec) { s.Linux.Resources.Rdma = map[string]specs.LinuxRdma{"x": {}} }, "rdma"},
		{"realtime", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))} }, "realtime"},
		{"cpuset", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "3-1"} }, "not a list"},
		{"huge cpuset", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0-4294967295"} }, "not a list"},
		{"swap", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(200)), Swap: ptr(int64(100))}
		}, "below the memory limit"},
		{"oom killer", func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: ptr(true)} }, "OOM killer"},
		{"unified path", func(s *specs.Spec) { s.Linux.Resources.Unified = map[string]string{"../cgroup.procs": "1"} }, "not the name"},
		{"unified core", func(s *specs.Spec) { s.Linux.Resources.Unified = map[string]string{"cgroup.freeze": "1"} }, "controller"},
		{"device rule", func(s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "x"}}
		}, "not made of"},

		{"devices", annotation("run.oci.runv.devices", "all"), "neither require nor available"},
		{"annotation", annotation("run.oci.runv.kernel", "/evil"), "unknown annotation"},
		{"cage", annotation(AnnotationCage, "off"), "neither warn nor require"},
		{"vcpus", annotation(AnnotationVCPUs, "many"), "not a number"},
		{"no vcpus", annotation(AnnotationVCPUs, "0"), "outside 1..8"},
		{"too many vcpus", annotation(AnnotationVCPUs, "9"), "outside 1..8"},
		{"template", annotation(AnnotationTemplate, "no"), "neither on nor off"},
		{"memory", annotation(AnnotationMemory, "1 GiB"), "not a size"},
		{"little memory", annotation(AnnotationMemory, "1M"), "less than"},
		{"much memory", annotation(AnnotationMemory, "1T"), "more than the host's"},
		{"overflow", annotation(AnnotationMemory, "99999999999999Ti"), "not a size"},
	} {
		s := minimal()
		c.edit(s)
		_, err := New(s, "/bundle", host)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		if c.name == "overflow" {
			c.want = "too large"
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error has several lines: %q", c.name, err)
		}
	}
}

func mount(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = []specs.Mount{m} }
}

func namespace(list ...specs.LinuxNamespace) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Namespaces = list }
}

func device(d specs.LinuxDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{d} }
}

func annotation(name, value string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Annotations = map[string]string{name: value} }
}

func TestDefaultAppArmorProfiles(t *testing.T) {
	for _, profile := range []string{"unconfined", "docker-default", "containers-default-0.50.1", "cri-containerd.apparmor.d", "crio-default", "nerdctl-default"} {
		s := minimal()
		s.Process.ApparmorProfile = profile
		if _, err := New(s, "/bundle", host); err != nil {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	s := minimal()
	s.Version, s.Process.Cwd, s.Root.Path = "", "x", ""
	_, err := New(s, "/bundle", host)
	if err == nil || !strings.HasPrefix(err.Error(), "3 problems: (1) ociVersion: missing; (2) ") {
		t.Errorf("got %v", err)
	}
}

func TestBinds(t *testing.T) {
	s := minimal()
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc"},
		{Destination: "/a/../b/", Type: "bind", Source: "data", Options: []string{"rbind", "ro", "rw", "nosuid", "rprivate"}},
		{Destination: "/c", Source: "/x", Options: []string{"bind", "rro", "noatime"}},
	}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	want := []Bind{
		{Source: "/bundle/data", Destination: "/b", Recursive: true, Set: unix.MOUNT_ATTR_NOSUID, Clear: unix.MOUNT_ATTR_RDONLY,
			Propagation: unix.MS_PRIVATE | unix.MS_REC, Index: 1},
		{Source: "/x", Destination: "/c", Set: unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME, RecSet: unix.MOUNT_ATTR_RDONLY, Index: 2},
	}
	if len(p.Binds) != len(want) {
		t.Fatalf("binds %+v", p.Binds)
	}
	for i := range want {
		if p.Binds[i] != want[i] {
			t.Errorf("bind %d: %+v; want %+v", i, p.Binds[i], want[i])
		}
	}
	if p.Spec.Mounts[1].Source != "" || s.Mounts[1].Source != "data" {
		t.Error("the source of a bind mount belongs into the plan, and not to the guest")
	}
}

func TestNetSysctls(t *testing.T) {
	s := Example()
	s.Linux.Sysctl = map[string]string{
		"kernel.shmmni": "4095", "net.ipv4.ip_forward": "1", "net/core/somaxconn": "7", "net.ipv4.conf.eth0/1.forwarding": "0",
	}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	want := []Sysctl{{"net/core/somaxconn", "7"}, {"net/ipv4/conf/eth0.1/forwarding", "0"}, {"net/ipv4/ip_forward", "1"}}
	slices.SortFunc(p.NetSysctls, func(a, b Sysctl) int { return strings.Compare(a.File, b.File) })
	if !slices.Equal(p.NetSysctls, want) {
		t.Errorf("NetSysctls = %v; want %v", p.NetSysctls, want)
	}
}

func TestWarnings(t *testing.T) {
	s := minimal()
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_FUTURE"}}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if p.DeviceNodes {
		t.Error("device nodes without CAP_MKNOD")
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "CAP_FUTURE") {
		t.Errorf("warnings %q", p.Warnings)
	}
	if got := p.Spec.Process.Capabilities.Bounding; len(got) != 1 || got[0] != "CAP_KILL" {
		t.Errorf("the guest gets %q", got)
	}
}

func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/accepted/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"ociVersion":"1.0.2","process":null,"root":{"path":"r"},"linux":{"resources":{"cpu":{"cpus":"0-3"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		p, err := New(s, "/bundle", host)
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(string(data), `\n`) {
				t.Errorf("an error with several lines: %q", err)
			}
			return
		}
		if p.Machine.VCPUs < 1 || p.Machine.VCPUs > host.CPUs {
			t.Errorf("%d vCPUs", p.Machine.VCPUs)
		}
		if p.Machine.MemoryBytes < minMemory || p.Machine.MemoryBytes > host.MemoryBytes || p.Machine.MemoryBytes%memoryAlign != 0 {
			t.Errorf("%d bytes of RAM", p.Machine.MemoryBytes)
		}
		if !filepath.IsAbs(p.Rootfs) || p.Rootfs == "/" || strings.Contains(p.Cgroup.Path, "..") && !validName(p.Cgroup.Path) {
			t.Errorf("rootfs %q, cgroup %q", p.Rootfs, p.Cgroup.Path)
		}
		for _, b := range p.Binds {
			if !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Destination) || b.Destination == "/" {
				t.Errorf("bind %+v", b)
			}
		}
		if _, err := json.Marshal(p); err != nil {
			t.Error(err)
		}
	})
}

// validName tells whether no component of a path is "..".
func validName(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return false
		}
	}
	return true
}

func TestExample(t *testing.T) {
	p, err := New(Example(), "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 0 || !p.Terminal || !p.RootfsReadonly || len(p.Namespaces) != 5 {
		t.Errorf("plan %+v", p)
	}
}

func TestCheckProcess(t *testing.T) {
	p := &specs.Process{Args: []string{"true"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NONSENSE"}}}
	guest, warnings, err := CheckProcess(p)
	if err != nil || len(warnings) != 1 || len(guest.Capabilities.Bounding) != 1 || len(p.Capabilities.Bounding) != 2 {
		t.Errorf("%+v, %q, %v", guest, warnings, err)
	}
	if _, _, err := CheckProcess(&specs.Process{Cwd: "tmp"}); err == nil || !strings.Contains(err.Error(), "2 problems") {
		t.Errorf("no args and a relative cwd: %v", err)
	}
}

func TestSystemdCgroup(t *testing.T) {
	systemd := Host{CPUs: 8, MemoryBytes: 16 << 30, SystemdCgroup: true}
	for _, tt := range []struct{ in, slice, unit, err string }{
		{in: "", slice: "system.slice"},
		{in: "machine.slice:libpod:abc", slice: "machine.slice", unit: "libpod-abc.scope"},
		{in: ":crio:abc", slice: "system.slice", unit: "crio-abc.scope"},
		{in: "a-b.slice::abc", slice: "a-b.slice", unit: "abc.scope"},
		{in: "-.slice:x:abc", slice: "-.slice", unit: "x-abc.scope"},
		{in: "/a/b", err: "slice:prefix:name"},
		{in: "a:b", err: "slice:prefix:name"},
		{in: "a.slice:b:", err: "no name"},
		{in: "a.slice:b:c.slice", err: "is a slice"},
		{in: "a.slice:b:c d", err: "not the name of a systemd unit"},
		{in: "a.slice:b:" + strings.Repeat("x", 250), err: "not the name of a systemd unit"},
		{in: "a:b:c", err: "not the name of a systemd slice"},
		{in: "a--b.slice:b:c", err: "not the name of a systemd slice"},
		{in: "..slice:b:c/../d", err: "slice:prefix:name"},
	} {
		s := minimal()
		s.Linux.CgroupsPath = tt.in
		p, err := New(s, "/bundle", systemd)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v; want %q", tt.in, err, tt.err)
			}
		case err != nil || !p.Cgroup.Systemd || p.Cgroup.Slice != tt.slice || p.Cgroup.Unit != tt.unit || p.Cgroup.Path != "":
			t.Errorf("%q: %+v, %v; want %s in %s", tt.in, p, err, tt.unit, tt.slice)
		}
	}
}
