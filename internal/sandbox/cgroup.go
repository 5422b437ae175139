package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/spec"
)

// Cgroup is the cgroup v2 directory of a container.
type Cgroup struct {
	Path string // absolute
	dir  *os.File
}

// cgroupRoot finds the cgroup v2 hierarchy: the usual place, or where systemd
// puts it beside v1. It is empty if there is none.
func cgroupRoot() string {
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return path
		}
	}
	return ""
}

// CgroupPath is the directory that a plan's cgroup will have; empty if this host
// has no cgroup v2.
func CgroupPath(c spec.Cgroup, id string) string {
	root := cgroupRoot()
	switch {
	case root == "":
		return ""
	case c.Systemd:
		return filepath.Join(root, slicePath(c.Slice), UnitName(c, id))
	case c.Path == "":
		return filepath.Join(root, "runv-"+id)
	}
	return filepath.Join(root, c.Path)
}

// slicePath is the path of a slice: a-b.slice is inside of a.slice.
func slicePath(slice string) string {
	base := strings.TrimSuffix(slice, ".slice")
	if base == "-" {
		return ""
	}
	var dirs []string
	for i, c := range base + "-" {
		if c == '-' {
			dirs = append(dirs, base[:i]+".slice")
		}
	}
	return filepath.Join(dirs...)
}

// CreateCgroup makes the directory at path, which is CgroupPath's, and sets the
// limits but for that on processor time: see LimitProcessors. Without cgroup v2
// and without limits there is nothing to do, and the result is nil.
func CreateCgroup(c spec.Cgroup, path string) (*Cgroup, error) {
	if path == "" {
		if len(c.Files) > 0 {
			return nil, fmt.Errorf("cgroup: %s cannot be set: no cgroup v2 is mounted on /sys/fs/cgroup", c.Files[0].Name)
		}
		return nil, nil
	}
	below, err := filepath.Rel(cgroupRoot(), path)
	if err != nil {
		return nil, err
	}
	parent := cgroupRoot()
	for part := range strings.SplitSeq(below, "/") {
		enable(parent, controllersOf(c.Files))
		parent = filepath.Join(parent, part)
		if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := CheckFree(path); err != nil {
		return nil, err
	}
	// A paused container that was killed may have left it frozen, and nothing
	// could start in it. A kernel without freezer has nothing to undo.
	_ = cgroup.Write(path, "cgroup.freeze", "0")
	limits, _ := bandwidthApart(c.Files)
	if err := writeFiles(path, limits); err != nil {
		_ = RemoveCgroup(path)
		return nil, err
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		_ = RemoveCgroup(path)
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return &Cgroup{Path: path, dir: dir}, nil
}

// LimitProcessors sets the limit on the processor time of a container that is
// ready; path and unit are those of its cgroup. To make the VM is not the
// workload's work, and would take a hundred times as long with a hundredth of a
// processor. In the guest the workload has the limit from the start.
func LimitProcessors(c spec.Cgroup, path, unit string) error {
	_, bandwidth := bandwidthApart(c.Files)
	if len(bandwidth) == 0 {
		return nil
	}
	_, err := SetLimits(path, unit, bandwidth)
	return err
}

// bandwidthApart parts the files that limit processor time from the others.
func bandwidthApart(files []spec.CgroupFile) (others, bandwidth []spec.CgroupFile) {
	for _, file := range files {
		if file.Name == "cpu.max" || file.Name == "cpu.max.burst" {
			bandwidth = append(bandwidth, file)
		} else {
			others = append(others, file)
		}
	}
	return others, bandwidth
}

// CheckFree returns an error if there are processes in the cgroup at path.
func CheckFree(path string) error {
	if populated(path) {
		return fmt.Errorf("container's cgroup is not empty: %s has processes: choose another linux.cgroupsPath, or delete the container that has it", path)
	}
	return nil
}

// writeFiles sets the limits of the cgroup at path.
func writeFiles(path string, files []spec.CgroupFile) error {
	for _, file := range files {
		if err := setLimit(path, file); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// Close closes the directory; the cgroup stays.
func (c *Cgroup) Close() error {
	if c == nil {
		return nil
	}
	return c.dir.Close()
}

// controllersOf has the controllers to enable: those the files belong to, and
// those that engines read statistics from.
func controllersOf(files []spec.CgroupFile) []string {
	list := []string{"cpu", "io", "memory", "pids"}
	for _, file := range files {
		if strings.HasPrefix(file.Name, "cpuset.") {
			return append(list, "cpuset")
		}
	}
	return list
}

// enable passes controllers on to the children of a cgroup. What is not to be
// had shows when a limit is written.
func enable(dir string, controllers []string) {
	for _, name := range controllers {
		_ = cgroup.Write(dir, "cgroup.subtree_control", "+"+name)
	}
}

func populated(path string) bool { return cgroup.Table(path, "cgroup.events")["populated"] == 1 }

// removeTimeout bounds the wait for killed processes to leave a cgroup.
const removeTimeout = 5 * time.Second

// RemoveCgroup kills what is in the cgroup and removes it. It may be gone
// already.
func RemoveCgroup(path string) error {
	if path == "" {
		return nil
	}
	deadline := time.Now().Add(removeTimeout)
	for delay := time.Millisecond; ; delay *= 2 {
		err := unix.Rmdir(path)
		switch {
		case err == nil || err == unix.ENOENT:
			return nil
		case err != unix.EBUSY || time.Now().After(deadline):
			return &fs.PathError{Op: "remove cgroup", Path: path, Err: err}
		}
		if populated(path) {
			_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
		}
		time.Sleep(min(delay, 50*time.Millisecond))
	}
}

// DropCgroup removes the cgroup at path if there is nothing in it: a runtime that
// was killed may have made it, and not come to say so.
func DropCgroup(path string) error {
	if path == "" {
		return nil
	}
	switch err := unix.Rmdir(path); err {
	case nil, unix.ENOENT, unix.EBUSY, unix.ENOTEMPTY:
		return nil
	default:
		return &fs.PathError{Op: "remove cgroup", Path: path, Err: err}
	}
}
