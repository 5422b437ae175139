package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxErrorText is what a configuration may make of an error's one line.
const maxErrorText = 8 << 10

func checkOneLine(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); len(text) > maxErrorText || strings.ContainsAny(text, "\n\r\x00\x1b") {
		t.Errorf("%d bytes, or not one printable line: %.300q", len(text), text)
	}
}

// TestHostileDocuments has what is no configuration at all.
func TestHostileDocuments(t *testing.T) {
	for name, data := range map[string][]byte{
		"deep":            bytes.Repeat([]byte("["), maxConfig),
		"deep objects":    bytes.Repeat([]byte(`{"a":`), 1<<20),
		"deep annotation": append([]byte(`{"annotations":`), bytes.Repeat([]byte(`{"a":`), 1<<20)...),
		"zeros":           make([]byte, 1<<20),
		"long string":     append([]byte(`{"ociVersion":"`), bytes.Repeat([]byte("x"), 1<<20)...),
		"long number":     append([]byte(`{"process":{"oomScoreAdj":`), bytes.Repeat([]byte("9"), 1<<20)...),
		"control codes":   []byte("{\x1b[2J\x00"),
		"overflow":        []byte(`{"linux":{"resources":{"memory":{"limit":1e400}}}}`),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(data)
			if err == nil {
				t.Fatal("accepted")
			}
			checkOneLine(t, err)
		})
	}
}

// TestHostileFiles has what a config.json must not be.
func TestHostileFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"FIFO":           {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a regular file"},
		"directory":      {func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		"endless device": {func(p string) error { return os.Symlink("/dev/zero", p) }, "not a regular file"},
		"huge":           {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 1<<40)) }, "larger than"},
		"link to itself": {func(p string) error { return os.Symlink(ConfigName, p) }, "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tc.make(filepath.Join(dir, ConfigName)); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Load = %v; want %q", err, tc.want)
			}
			checkOneLine(t, err)
		})
	}
}

// TestHostileAnnotations has ones that would change the machine: below the
// prefix, everything but the documented is refused, also in their values.
func TestHostileAnnotations(t *testing.T) {
	for name, value := range map[string]string{
		AnnotationPrefix:                    "1",
		AnnotationPrefix + "kernel":         "/tmp/evil",
		AnnotationPrefix + "initrd":         "/tmp/evil",
		AnnotationPrefix + "cmdline":        "init=/bin/sh",
		AnnotationPrefix + "VCPUS":          "1",
		AnnotationPrefix + "vcpus ":         "1",
		AnnotationPrefix + "vcpus.":         "1",
		AnnotationPrefix + "memory\x00":     "1G",
		AnnotationPrefix + "../vcpus":       "1",
		AnnotationVCPUs:                     "1 init=/bin/sh",
		AnnotationMemory:                    "1G panic=0",
		AnnotationPrefix + "virtio_mmio":    "4K@0xd0000000:5",
		AnnotationPrefix + "hypervisor":     "/bin/sh",
		AnnotationPrefix + "\x1b[2Jcontrol": "x",
	} {
		s := minimal()
		s.Annotations = map[string]string{name: value}
		if _, err := New(s, "/bundle", host); err == nil {
			t.Errorf("%q=%q is accepted", name, value)
		} else {
			checkOneLine(t, err)
		}
	}
	for _, values := range []struct {
		name string
		bad  []string
	}{
		{AnnotationVCPUs, []string{"", "0", "-1", "1e3", "0x10", "99999999999999999999", " 1", "1\n", "¼"}},
		{AnnotationMemory, []string{"", "0", "-1", "1", "16Ei", "18446744073709551615", "9999999999999T", "1GG", "1 G", "NaN"}},
	} {
		for _, v := range values.bad {
			s := minimal()
			s.Annotations = map[string]string{values.name: v}
			if _, err := New(s, "/bundle", host); err == nil {
				t.Errorf("%s=%q is accepted", values.name, v)
			} else {
				checkOneLine(t, err)
			}
		}
	}
}

// TestAbsurdValues: whatever the numbers are, the plan's machine is one that the
// host can have.
func TestAbsurdValues(t *testing.T) {
	numbers := []int64{math.MinInt64, -1, 0, 1, 4096, 1 << 32, math.MaxInt64}
	for _, n := range numbers {
		for _, m := range numbers {
			s := minimal()
			s.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &n, Reservation: &m, Swap: &m},
				CPU:    &specs.LinuxCPU{Quota: &n, Period: ptr(uint64(m)), Shares: ptr(uint64(n))},
				Pids:   &specs.LinuxPids{Limit: &n},
			}
			p, err := New(s, "/bundle", host)
			if err != nil {
				checkOneLine(t, err)
				continue
			}
			if p.Machine.VCPUs < 1 || p.Machine.VCPUs > host.CPUs || p.Machine.MemoryBytes > 2*host.MemoryBytes {
				t.Errorf("%d, %d: %+v", n, m, p.Machine)
			}
		}
	}
}

// TestLongLists: every list that can be long is dealt with in time, and in one
// line of bounded length.
func TestLongLists(t *testing.T) {
	const n = 20000
	texts := func(format string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	for name, edit := range map[string]func(*specs.Spec){
		"arguments":     func(s *specs.Spec) { s.Process.Args = texts("%d") },
		"environment":   func(s *specs.Spec) { s.Process.Env = texts("V%d=x") },
		"bad variables": func(s *specs.Spec) { s.Process.Env = texts("%d") },
		"bad annotations": func(s *specs.Spec) {
			s.Annotations = map[string]string{}
			for _, name := range texts(AnnotationPrefix + "%d") {
				s.Annotations[name] = ""
			}
		},
		"one long name": func(s *specs.Spec) { s.Process.Env = []string{strings.Repeat("x", 1<<20)} },
		"mounts": func(s *specs.Spec) {
			for _, d := range texts("/m/%d") {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Type: "tmpfs", Source: "tmpfs"})
			}
		},
		"mount options": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/", Options: append(texts("o%d"), "bind")}}
		},
		"rlimits": func(s *specs.Spec) {
			for range n {
				s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CPU"})
			}
		},
		"namespaces": func(s *specs.Spec) {
			for range n {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
			}
		},
		"processors": func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: strings.Repeat("0-8191,", 1<<20) + "0"}
		},
		"memory nodes": func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Mems: strings.Repeat("0-8191,", 1<<20) + "0"}
		},
		"masked paths": func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = texts("/%d"), texts("/%d") },
		"sysctls": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{}
			for _, name := range texts("net.x%d") {
				s.Linux.Sysctl[name] = "1"
			}
		},
		"groups": func(s *specs.Spec) { s.Process.User.AdditionalGids = make([]uint32, n) },
		"hooks": func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststop: make([]specs.Hook, n)}
		},
		"system calls": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: texts("call%d"), Action: specs.ActErrno}}}
		},
		"capabilities": func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: texts("CAP_%d")} },
	} {
		t.Run(name, func(t *testing.T) {
			s := minimal()
			edit(s)
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if s, err = Parse(data); err != nil {
				t.Fatal(err)
			}
			if _, err = New(s, "/bundle", host); err != nil {
				checkOneLine(t, err)
			}
		})
	}
}
