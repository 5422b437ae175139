package initproc

import (
	"errors"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

func ptr[T any](v T) *T { return &v }

func TestCheckSpec(t *testing.T) {
	const invalid, unsupported = protocol.Failure_INVALID, protocol.Failure_UNSUPPORTED
	tests := []struct {
		name   string
		change func(*specs.Spec)
		reason protocol.Failure_Reason // UNKNOWN: accepted
	}{
		{"plain", func(*specs.Spec) {}, 0},
		{"no process", func(s *specs.Spec) { s.Process = nil }, invalid},
		{"no args", func(s *specs.Spec) { s.Process.Args = nil }, invalid},
		{"NUL in args", func(s *specs.Spec) { s.Process.Args = []string{"a\x00"} }, invalid},
		{"NUL in env", func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} }, invalid},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "x" }, invalid},
		{"user namespace", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "user"}} }, invalid},
		{"time namespace", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "time"}} }, 0},
		{"joined time", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "time", Path: "/x"}} }, unsupported},
		{"unknown namespace", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "x"}} }, invalid},
		{"namespace twice", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "pid"}} }, invalid},
		{"joined namespace", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "ipc", Path: "/x"}} }, unsupported},
		{"joined network", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "network", Path: "/x"}}
		}, 0},
		{"mappings", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{}} }, invalid},
		{"time offsets", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, invalid},
		{"network devices", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }, unsupported},
		{"intelRdt", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, unsupported},
		{"memory policy", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }, unsupported},
		{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" }, invalid},
		{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "x"} }, invalid},
		{"device type", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Type: "x"}} }, invalid},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a..b": ""} }, invalid},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "x"}} }, invalid},
		{"rlimit order", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} }, invalid},
		{"rlimit twice", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}
		}, invalid},
		{"oom_score_adj", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(1001) }, invalid},
		{"scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "x"} }, invalid},
		{"scheduler flag", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"x"}}
		}, invalid},
		{"io class", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "x"} }, invalid},
		{"io level", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}, invalid},
		{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "3-1"} }, invalid},
		{"mount without type", func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x"}} }, invalid},
		{"mount without destination", func(s *specs.Spec) { s.Mounts = []specs.Mount{{Type: "tmpfs"}} }, invalid},
		{"idmapped mount", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Options: []string{"bind", "idmap"}}}
		}, unsupported},
		{"tmpcopyup of proc", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "proc", Options: []string{"tmpcopyup"}}}
		}, invalid},
		{"hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "x"}}} }, invalid},
		{"hook timeout", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/x", Timeout: ptr(0)}}}
		}, invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec := &specs.Spec{Process: &specs.Process{Args: []string{"x"}, Cwd: "/"}, Linux: &specs.Linux{}}
			tt.change(spec)
			_, err := CheckSpec(spec)
			var f *Failure
			if errors.As(err, &f) != (tt.reason != 0) || f != nil && f.Reason != tt.reason {
				t.Errorf("error %v; want reason %v", err, tt.reason)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Args: []string{"x"}, Cwd: "/"}, Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "cgroup"}},
	}}
	flags, err := CheckSpec(spec)
	if want := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP; err != nil || flags != want {
		t.Errorf("%#x, %v; want %#x", flags, err, want)
	}
}

func TestParseMountOptions(t *testing.T) {
	o := parseMountOptions([]string{"rbind", "ro", "nosuid", "suid", "rnodev", "rslave", "noatime", "sync", "size=5", "defaults"})
	if !o.bind || !o.recursive {
		t.Error("rbind is not seen")
	}
	if o.set != unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOATIME || o.clear != unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR__ATIME {
		t.Errorf("set %#x, clear %#x", o.set, o.clear)
	}
	if o.recursiveSet != unix.MOUNT_ATTR_NODEV || o.recursiveClear != 0 {
		t.Errorf("recursively: set %#x, clear %#x", o.recursiveSet, o.recursiveClear)
	}
	if o.flags != unix.MS_RDONLY|unix.MS_NOATIME|unix.MS_SYNCHRONOUS {
		t.Errorf("flags %#x", o.flags)
	}
	if !slices.Equal(o.data, []string{"size=5"}) || !slices.Equal(o.propagation, []uintptr{unix.MS_SLAVE | unix.MS_REC}) {
		t.Errorf("data %q, propagation %#x", o.data, o.propagation)
	}
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"kernel.shmmax":                  "kernel/shmmax",
		"net/ipv4/conf/eth0.1/rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"a..b":                           "",
		"../x":                           "",
		"/x":                             "",
		"":                               "",
	} {
		got, err := sysctlPath(key)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("sysctlPath(%q) = %q, %v; want %q", key, got, err, want)
		}
	}
}

func TestParseCPUList(t *testing.T) {
	set, err := parseCPUList("0-2, 7")
	if err != nil || set.Count() != 4 || !set.IsSet(7) || set.IsSet(3) {
		t.Errorf("%v, %v", set, err)
	}
	for _, list := range []string{"x", "1-", "-1", "5000", "2-1", "1,,2"} {
		if _, err := parseCPUList(list); err == nil {
			t.Errorf("%q is accepted", list)
		}
	}
}
