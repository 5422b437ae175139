package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
)

// controllers are those of cgroup v2 that containers get.
var controllers = []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}

// enableControllers makes the controllers the kernel has available to the
// children of a cgroup.
func enableControllers(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var enable []string
	for _, name := range strings.Fields(string(available)) {
		for _, wanted := range controllers {
			if name == wanted {
				enable = append(enable, "+"+name)
			}
		}
	}
	return writeCgroup(dir, "cgroup.subtree_control", strings.Join(enable, " "))
}

// cgroup is the cgroup (version 2) of a container in the guest.
type cgroup struct {
	dir string
}

func newCgroup(root, id string) (*cgroup, error) {
	dir := filepath.Join(root, id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return &cgroup{dir: dir}, nil
}

func writeCgroup(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (c *cgroup) write(file, value string) error { return writeCgroup(c.dir, file, value) }

// add puts a process into the cgroup.
func (c *cgroup) add(pid int) error { return addTo(c.dir, pid) }

func addTo(dir string, pid int) error {
	if err := writeCgroup(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("adding pid %d to cgroups: %w", pid, err)
	}
	return nil
}

// join puts one more process into the container: into the cgroup sub, which is
// below the container's own or that ("/"). If sub is empty it is the container's
// own too, or, where that takes no processes because the container has passed
// controllers on (a service manager does), the one of its first process.
func (c *cgroup) join(pid int, sub string, first int) error {
	if sub == "" {
		err := c.add(pid)
		if errors.Is(err, unix.EBUSY) {
			if dir := c.of(first); dir != "" {
				return addTo(dir, pid)
			}
		}
		return err
	}
	below := "./" + strings.TrimLeft(sub, "/")
	if !filepath.IsLocal(below) {
		return failf(protocol.Failure_INVALID, "%s is not a sub cgroup path", sub)
	}
	return addTo(filepath.Join(c.dir, below), pid)
}

// of is the directory, c's or one below, that has the process; empty if none has.
func (c *cgroup) of(pid int) string {
	found := ""
	// What cannot be read does not have it.
	_ = c.walk(func(dir string) error {
		content, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if slices.Contains(strings.Fields(string(content)), strconv.Itoa(pid)) {
			found = dir
			return filepath.SkipAll
		}
		return nil
	})
	return found
}

// walk calls fn for the cgroup and all below it.
func (c *cgroup) walk(fn func(dir string) error) error {
	return filepath.WalkDir(c.dir, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		return fn(name)
	})
}

// pids lists the processes of the cgroup and of all below it.
func (c *cgroup) pids() ([]int, error) {
	var list []int
	err := c.walk(func(dir string) error {
		content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // removed meanwhile, or threaded
		}
		if err != nil {
			return err
		}
		for _, line := range strings.Fields(string(content)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			list = append(list, pid)
		}
		return nil
	})
	return list, err
}

// kill ends every process with SIGKILL.
func (c *cgroup) kill() error { return c.write("cgroup.kill", "1") }

// freeze stops or continues every process and returns when all have.
func (c *cgroup) freeze(ctx context.Context, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	events, err := os.Open(filepath.Join(c.dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	if err := c.write("cgroup.freeze", value); err != nil {
		return err
	}
	for {
		content := make([]byte, 256)
		n, err := events.ReadAt(content, 0)
		if n == 0 && err != nil {
			return err
		}
		if counters(content[:n])["frozen"] == counters([]byte("frozen " + value))["frozen"] {
			return nil
		}
		if err := waitPriority(ctx, events); err != nil {
			if on {
				err = errors.Join(err, c.write("cgroup.freeze", "0"))
			}
			return err
		}
	}
}

// waitPriority waits for a change of a cgroup's event file, or a moment.
func waitPriority(ctx context.Context, f *os.File) error {
	const moment = 100 * time.Millisecond
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
	if _, err := unix.Poll(fds, int(moment/time.Millisecond)); err != nil && err != unix.EINTR {
		return os.NewSyscallError("poll", err)
	}
	return ctx.Err()
}

// remove deletes the cgroup and those below it, which must be empty.
func (c *cgroup) remove() error {
	var dirs []string
	if err := c.walk(func(dir string) error { dirs = append(dirs, dir); return nil }); err != nil {
		return err
	}
	var errs []error
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// value reads a file with one number; "max" is the largest. A file that does
// not exist, because its controller does not, reads as 0.
func (c *cgroup) value(file string) (uint64, error) {
	content, err := os.ReadFile(filepath.Join(c.dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(content))
	if text == "max" {
		return ^uint64(0), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// table reads a file of names and numbers; a missing one is empty.
func (c *cgroup) table(file string) (map[string]uint64, error) {
	content, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return counters(content), nil
}

func counters(content []byte) map[string]uint64 {
	m := make(map[string]uint64)
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		name, number, ok := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(number, 10, 64); ok && err == nil {
			m[name] = n
		}
	}
	return m
}

// oomKilled tells whether the kernel killed a process for lack of memory.
func (c *cgroup) oomKilled() bool {
	events, err := c.table("memory.events")
	return err == nil && events["oom_kill"] > 0
}

func (c *cgroup) stats() (*protocol.StatsResponse, error) {
	var errs []error
	value := func(file string) uint64 {
		n, err := c.value(file)
		errs = append(errs, err)
		return n
	}
	table := func(file string) map[string]uint64 {
		m, err := c.table(file)
		errs = append(errs, err)
		return m
	}
	cpu := table("cpu.stat")
	resp := &protocol.StatsResponse{
		Cpu: &protocol.CPUStats{
			UsageUsec:        cpu["usage_usec"],
			UserUsec:         cpu["user_usec"],
			SystemUsec:       cpu["system_usec"],
			Periods:          cpu["nr_periods"],
			ThrottledPeriods: cpu["nr_throttled"],
			ThrottledUsec:    cpu["throttled_usec"],
		},
		Memory: &protocol.MemoryStats{
			CurrentBytes:     value("memory.current"),
			PeakBytes:        value("memory.peak"),
			LimitBytes:       value("memory.max"),
			SwapCurrentBytes: value("memory.swap.current"),
			SwapLimitBytes:   value("memory.swap.max"),
			Stat:             table("memory.stat"),
			Events:           table("memory.events"),
		},
		Pids: &protocol.PidsStats{
			Current: value("pids.current"),
			Limit:   value("pids.max"),
		},
	}
	return resp, errors.Join(errs...)
}
