package seccomp

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestAllow(t *testing.T) {
	filter, err := Allow([]specs.LinuxSyscall{
		{Names: []string{"read", "getxattrat"}, Action: specs.ActAllow},
		{Names: []string{"setsockopt"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{
			{Index: 1, Value: 1, Op: specs.OpEqualTo}, {Index: 2, Value: 26, Op: specs.OpEqualTo}}},
		{Names: []string{"setsockopt"}, Action: specs.ActAllow},
	})
	if err != nil {
		t.Fatal(err)
	}
	const a64 = unix.AUDIT_ARCH_X86_64
	const killProcess = unix.SECCOMP_RET_KILL_PROCESS
	for _, tt := range []struct {
		name string
		call call
		want uint32
	}{
		{"read", call{arch: a64, number: 0}, allow},
		{"write", call{arch: a64, number: 1}, killProcess},
		{"getxattrat", call{arch: a64, number: 464}, allow},
		{"newer than all", call{arch: a64, number: 465}, killProcess},
		{"no system call", call{arch: a64, number: 1 << 20}, killProcess},
		{"what a tracer skipped", call{arch: a64, number: ^uint32(0)}, killProcess},
		{"the exception", call{arch: a64, number: 54, args: [6]uint64{9, 1, 26}}, errnoRet | uint32(unix.EPERM)},
		{"beside the exception", call{arch: a64, number: 54, args: [6]uint64{9, 1, 27}}, allow},
		{"x32", call{arch: a64, number: x32Bit}, killProcess},
		{"i386", call{arch: unix.AUDIT_ARCH_I386, number: 3}, killProcess},
	} {
		if got := run(t, filter.program, tt.call); got != tt.want {
			t.Errorf("%s: %#x; want %#x", tt.name, got, tt.want)
		}
	}
	if _, err := Allow([]specs.LinuxSyscall{{Names: []string{"raed"}, Action: specs.ActAllow}}); err == nil || !strings.Contains(err.Error(), `"raed"`) {
		t.Errorf("a name that does not exist: %v", err)
	}
}
