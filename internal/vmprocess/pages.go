package vmprocess

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// useSmallPages keeps what this process has now, the program's variables and the
// runtime's tables, out of huge pages: little of it is used, and on a host that
// gives them to everybody the first garbage collection would take 3 MiB for it.
// Its heap has its own setting (package sandbox), and the guest's memory is
// mapped later. It is not a matter of correctness.
func useSmallPages() {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var start, end uintptr
		var rights string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &rights); n == 3 && strings.HasPrefix(rights, "rw-p") {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_NOHUGEPAGE)
		}
	}
}
