package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// userHZ is the unit of times in /proc/PID/stat, per second.
const userHZ = 100

// Bounds of what is told of one process and of all of them.
const (
	maxArgs      = 4 << 10
	maxProcesses = 16 << 10
	maxArgsTotal = 1 << 20
)

// processes describes processes; those that end meanwhile are left out.
func processes(pids []int) ([]*protocol.Process, error) {
	if len(pids) > maxProcesses {
		return nil, fmt.Errorf("%d processes are more than can be listed", len(pids))
	}
	boot := bootTime()
	var list []*protocol.Process
	budget := maxArgsTotal
	for _, pid := range pids {
		p, err := processInfo(pid, boot, min(maxArgs, budget))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, arg := range p.Args {
			budget -= len(arg)
		}
		list = append(list, p)
	}
	return list, nil
}

// bootTime is the wall clock when the guest started.
func bootTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}

func processInfo(pid int, boot time.Time, argsBudget int) (*protocol.Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	p := &protocol.Process{Pid: uint32(pid)}
	if err := parseStat(p, stat, boot); err != nil {
		return nil, fmt.Errorf("%s/stat: %w", dir, err)
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, err
	}
	parseStatus(p, status)
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return nil, err
	}
	cmdline = bytes.TrimRight(cmdline[:min(len(cmdline), argsBudget)], "\x00")
	if len(cmdline) > 0 {
		for arg := range strings.SplitSeq(string(cmdline), "\x00") {
			p.Args = append(p.Args, strings.ToValidUTF8(arg, "?"))
		}
	}
	return p, nil
}

// parseStat reads /proc/PID/stat. The name in its second field may contain
// anything, parentheses too.
func parseStat(p *protocol.Process, stat []byte, boot time.Time) error {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return errors.New("malformed")
	}
	p.Command = strings.ToValidUTF8(string(stat[open+1:end]), "?")
	fields := strings.Fields(string(stat[end+1:]))
	// Numbered as in proc(5), where the state is field 3.
	const first = 3
	if len(fields) < 24-first+1 {
		return errors.New("malformed")
	}
	field := func(n int) uint64 {
		v, _ := strconv.ParseInt(fields[n-first], 10, 64)
		return uint64(max(v, 0))
	}
	p.State = fields[0]
	p.ParentPid = uint32(field(4))
	p.Tty = uint32(field(7))
	p.CpuNanoseconds = (field(14) + field(15)) * uint64(time.Second/userHZ)
	p.StartedUnixNano = boot.Add(time.Duration(field(22)) * (time.Second / userHZ)).UnixNano()
	p.RssBytes = field(24) * uint64(os.Getpagesize())
	return nil
}

// parseStatus reads the effective ids and the innermost pid.
func parseStatus(p *protocol.Process, status []byte) {
	for line := range strings.SplitSeq(string(status), "\n") {
		key, rest, _ := strings.Cut(line, ":")
		values := strings.Fields(rest)
		number := func(i int) uint32 {
			if i < 0 || i >= len(values) {
				return 0
			}
			n, _ := strconv.ParseUint(values[i], 10, 32)
			return uint32(n)
		}
		switch key {
		case "Uid":
			p.Uid = number(1)
		case "Gid":
			p.Gid = number(1)
		case "NSpid":
			p.ContainerPid = number(len(values) - 1)
		}
	}
}
