package guest

import (
	"errors"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
)

// TestSeccomp loads filters for the first process and for additional ones.
func TestSeccomp(t *testing.T) {
	h := newHarness(t)
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.ENOSPC))},
			{Names: []string{"chmod", "fchmod", "fchmodat", "fchmodat2"}, Action: specs.ActErrno},
		},
	}
	const script = "mkdir /x 2>&1; chmod 0 /data 2>&1; grep ^Seccomp: /proc/self/status"
	want := []string{
		"mkdir: can't create directory '/x': No space left on device",
		"chmod: /data: Operation not permitted",
		"Seccomp:\t2",
	}
	for _, noNewPrivs := range []bool{true, false} {
		spec := defaultSpec()
		spec.Linux.Seccomp = profile
		spec.Process.NoNewPrivileges = noNewPrivs
		spec.Process.User.UID = 1000
		if got := h.sh(spec, script); !slices.Equal(got, want) {
			t.Errorf("no_new_privs %t: %q; want %q", noNewPrivs, got, want)
		}
	}
	spec := defaultSpec("sleep", "1000")
	spec.Linux.Seccomp = profile
	h.start(spec)
	r, err := h.exec("e1", defaultSpec("sh", "-c", script).Process)
	if err != nil || r.stdout != want[0]+"\n"+want[1]+"\n"+want[2]+"\n" {
		t.Errorf("exec: %q, %v", r.stdout, err)
	}
}

func TestSeccompKill(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("sh", "-c", "mkdir /x; echo not reached; exit 0")
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActAllow}, {Names: []string{"mkdir"}, Action: specs.ActKillProcess}},
	}
	spec.Process.Args = []string{"mkdir", "/x"}
	if r := h.mustRun(spec); r.exit.Signal != unix.SIGSYS || r.exit.Status() != 159 {
		t.Errorf("exit %+v", r.exit)
	}
	spec.Linux.Seccomp.DefaultAction = specs.ActNotify
	if _, err := h.run(spec, nil); !errors.Is(err, client.ErrUnsupported) {
		t.Errorf("notify: %v", err)
	}
}
