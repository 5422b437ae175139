package main

import (
	"fmt"
	"testing"
)

func TestCaged(t *testing.T) {
	const trace = `100 execve("/proc/self/fd/9", ["runv", "vm", "x"], 0xc000 /* 0 vars */ <unfinished ...>
100 <... execve resumed>) = 0
100 clone(child_stack=0x1, flags=0xd0f00, tls=0x2 <unfinished ...>
101 futex(0xc1, 0x80, 0, NULL <unfinished ...>
100 <... clone resumed>, tls=0x2) = 2 /* 101 in strace's PID NS */
90  openat(-100, "/etc/passwd", 0x80000) = 3
100 openat(-100, "/etc, (x)", 0x80000) = 3
100 seccomp(0x1, 0x5, {len=300, filter=0xc000}) = 0
101 <... futex resumed>) = 0
90  execve("/bin/true", ["true"], 0x1) = 0
101 mknodat(7, "a,b\"c", 010600) = 0
101 clone(child_stack=0x1, flags=0xd0f00, tls=0x2) = 3 /* 102 in strace's PID NS */
102 ioctl(5, 0xae80, 0) = 0
102 --- SIGURG {si_signo=SIGURG} ---
102 tgkill(1, 2, 23 <unfinished ...>
102 <... tgkill resumed>) = 0
102 tgkill(100, 2, 23) = 0
102 tgkill(99, 2, 23) = 0
102 socket(0x2, 0x1|0x80800, 0x6 <unfinished ...>
101 syscall_0xfffffffffffffff5(0x1, 0x1) = ?
100 +++ exited with 0 +++
`
	calls, processes := caged(trace)
	want := "[{mknodat [7 0 4480 0 0 0]} {clone [855808 0 0 0 0 0]} {ioctl [5 44672 0 0 0 0]} {tgkill [1 2 23 0 0 0]} {tgkill [1 2 23 0 0 0]} {tgkill [99 2 23 0 0 0]} {socket [2 526337 6 0 0 0]}]"
	if got := fmt.Sprint(calls); processes != 1 || got != want {
		t.Errorf("%d processes, %s; want 1, %s", processes, got, want)
	}
}
