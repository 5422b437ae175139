//go:build integration

package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// caps are capability sets as /proc shows them.
func caps(list ...uint) string {
	var set uint64
	for _, c := range list {
		set |= 1 << c
	}
	return fmt.Sprintf("%016x", set)
}

// TestCage looks at the VM process of a running container from outside: that it
// is what docs/threat-model.md says.
func TestCage(t *testing.T) {
	noLeaks(t)
	// What a guest of each kind leaves the process.
	writable := []uint{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP}
	for _, tt := range []struct {
		name string
		edit func(*specs.Spec)
		caps []uint
	}{
		{"writable", func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} }, writable},
		{"ports", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_BIND_SERVICE"}}
		}, append(slices.Clone(writable), unix.CAP_NET_BIND_SERVICE)},
		{"readonly", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{}
			s.Root.Readonly = true
		}, []uint{unix.CAP_DAC_READ_SEARCH}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := bundle(t, trap, tt.edit)
			id := newID()
			log := filepath.Join(t.TempDir(), "log")
			b := inBackground(t, "--cage", "require", "--debug", "--log", log, "run", "--bundle", dir, id)
			b.out.wait(t, "ready")
			pid := stateOf(t, id).Pid
			checkThreads(t, pid, caps(tt.caps...))
			checkDescriptors(t, pid)
			checkMounts(t, pid)
			checkLimits(t, pid)
			text, err := os.ReadFile(log)
			must(t, err)
			if !regexp.MustCompile(`level=debug msg=cage landlock=[2-9] lacks=\[\]\n`).Match(text) {
				t.Errorf("no Landlock, or another layer is not there:\n%s", text)
			}
			if strings.Contains(string(text), "level=warning") {
				t.Errorf("a warning:\n%s", text)
			}
			if got, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || got == runvPath {
				t.Errorf("exe is %s, %v: the program on its usual mount", got, err)
			}
			runv(t, nil, "kill", id, "KILL").expect(t, "", "", 0)
			b.end(t)
		})
	}
}

// TestCagePolicy: what is neither of the two words is refused.
func TestCagePolicy(t *testing.T) {
	r := runv(t, nil, "--cage", "off", "list")
	r.expect(t, "", "runv: --cage: \"off\" is neither warn nor require\n", 1)
	dir := bundle(t, []string{"true"}, func(s *specs.Spec) { s.Annotations[spec.AnnotationCage] = "off" })
	r = runv(t, nil, "run", "-b", dir, newID())
	if r.expect(t, "", "*", 1); !strings.Contains(r.stderr, "neither warn nor require") {
		t.Errorf("stderr %q", r.stderr)
	}
}

func checkThreads(t *testing.T, pid int, effective string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	if len(threads) < 4 || len(threads) > 64 {
		t.Errorf("%d threads", len(threads))
	}
	const none = "0000000000000000"
	want := map[string]string{
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1",
		"CapEff": effective, "CapPrm": effective, "CapInh": none, "CapBnd": none, "CapAmb": none,
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		must(t, err)
		seen := 0
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if w, ok := want[name]; ok {
				seen++
				if got := strings.TrimSpace(value); got != w {
					t.Errorf("%s: %s is %s; want %s", thread, name, got, w)
				}
			}
		}
		if seen != len(want) {
			t.Errorf("%s: %d of %d lines", thread, seen, len(want))
		}
	}
}

// checkDescriptors: the list of docs/threat-model.md. What the guest has open in
// the share is O_PATH or not, and below the root.
func checkDescriptors(t *testing.T, pid int) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	known := []struct{ what, pattern string }{
		{"stdio", `^(/dev/null|pipe:\[\d+\])$`},
		{"eventfd", `^anon_inode:\[eventfd\]$`},
		{"poller", `^anon_inode:\[eventpoll\]$`},
		{"machine", `^anon_inode:kvm-vm$`},
		{"vcpu", `^anon_inode:kvm-vcpu:\d+$`},
		{"socket", `^socket:\[\d+\]$`},
		{"log", `/log$`},
		{"proc", `/\d+/fd$`},
		{"page map", `/\d+/pagemap$`},
		{"share", `/rootfs(/.*)?$|^/$|^/(bin|etc|dev|proc|sys|tmp)(/.*)?$`},
	}
	count := make(map[string]int)
	for _, link := range links {
		name, err := os.Readlink(link)
		if os.IsNotExist(err) {
			continue
		}
		must(t, err)
		i := slices.IndexFunc(known, func(k struct{ what, pattern string }) bool {
			return regexp.MustCompile(k.pattern).MatchString(name)
		})
		if i < 0 {
			t.Errorf("descriptor %s of the VM process is %s", filepath.Base(link), name)
			continue
		}
		count[known[i].what]++
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, filepath.Base(link)))
		if err == nil && !closeOnExec(string(info)) {
			t.Errorf("descriptor %s (%s) is not close-on-exec:\n%s", filepath.Base(link), name, info)
		}
	}
	// The sync socket has been closed by the runtime, and is open here still;
	// agent.sock, and two of rtnetlink.
	for what, most := range map[string]int{"poller": 1, "machine": 1, "vcpu": 1, "socket": 4, "log": 1, "proc": 1} {
		if n := count[what]; n < 1 || n > most {
			t.Errorf("%d descriptors of kind %s; want 1 to %d (%v)", n, what, most, slices.Sorted(maps.Keys(count)))
		}
	}
}

// closeOnExec reads the flags in /proc/PID/fdinfo: octal, with O_CLOEXEC.
func closeOnExec(info string) bool {
	for line := range strings.Lines(info) {
		var flags int
		if n, _ := fmt.Sscanf(line, "flags: %o", &flags); n == 1 {
			return flags&unix.O_CLOEXEC != 0
		}
	}
	return false
}

// checkMounts: the VM process sees the share and nothing else.
func checkMounts(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if fields := strings.Fields(lines[0]); len(lines) != 1 || len(fields) < 6 || fields[4] != "/" {
		t.Errorf("mounts:\n%s\nwant the share alone", text)
	}
	for _, flag := range []string{"nosuid", "nodev", "noexec"} {
		if !strings.Contains(lines[0], flag) {
			t.Errorf("the share is not %s: %s", flag, lines[0])
		}
	}
}

func checkLimits(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	for _, name := range []string{"Max core file size", "Max locked memory", "Max msgqueue size", "Max nice priority", "Max realtime priority"} {
		if !regexp.MustCompile(name + ` +0 +0 `).Match(text) {
			t.Errorf("%s is not 0:\n%s", name, text)
		}
	}
	// Dumpable off: the process's files belong to root, and are not its own.
	status, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	if status.Mode().Perm() != 0o600 {
		t.Errorf("mem has mode %v", status.Mode())
	}
}
