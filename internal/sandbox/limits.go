package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/spec"
)

// SetLimits changes the limits of the cgroup at path, which is that of a systemd
// unit if unit is not empty. Either all are set, or an
// error says which could not be and the others are as they were; undo takes them
// back later.
func SetLimits(path, unit string, files []spec.CgroupFile) (undo func() error, err error) {
	if path == "" {
		if len(files) > 0 {
			return nil, errors.New("cgroup: the container has none: mount cgroup v2 on /sys/fs/cgroup and create it again")
		}
		return func() error { return nil }, nil
	}
	if err := reach(path, files); err != nil {
		return nil, err
	}
	var before []spec.CgroupFile
	undo = func() error {
		errs := []error{changeScope(unit, before)}
		for _, file := range slices.Backward(before) {
			errs = append(errs, setLimit(path, file))
		}
		return errors.Join(errs...)
	}
	for _, file := range files {
		old := current(path, file)
		if err := setLimit(path, file); err != nil {
			return nil, errors.Join(fmt.Errorf("cgroup: %w", err), undo())
		}
		before = append(before, old...)
	}
	// The kernel has checked them. systemd may round what it writes.
	err = changeScope(unit, files)
	if err == nil && unit != "" {
		err = writeFiles(path, files)
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// reach enables the controllers that the cgroup at path lacks for the files.
func reach(path string, files []spec.CgroupFile) error {
	var missing []string
	for _, file := range files {
		if _, err := os.Lstat(filepath.Join(path, file.Name)); errors.Is(err, fs.ErrNotExist) {
			controller, _, _ := strings.Cut(file.Name, ".")
			missing = append(missing, controller)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	below, err := filepath.Rel(cgroupRoot(), path)
	if err != nil {
		return err
	}
	parent := cgroupRoot()
	for part := range strings.SplitSeq(below, "/") {
		enable(parent, missing)
		parent = filepath.Join(parent, part)
	}
	return nil
}

// current are the writes that bring back what a control file says now; none for
// a file that cannot be read.
func current(path string, file spec.CgroupFile) []spec.CgroupFile {
	content, err := os.ReadFile(filepath.Join(path, file.Name))
	if err != nil {
		return nil
	}
	old := strings.TrimSpace(string(content))
	switch {
	case file.Name == "io.max":
		device, _, _ := strings.Cut(file.Value, " ")
		value := device + " rbps=max wbps=max riops=max wiops=max"
		for line := range strings.Lines(old) {
			if strings.HasPrefix(line, device+" ") {
				value = strings.TrimSpace(line)
			}
		}
		old = value
	case file.Name == "io.weight":
		old, _, _ = strings.Cut(strings.TrimPrefix(old, "default "), "\n") // others are per device
	case file.Name == "cpu.weight" && old == "0":
		return nil // the weight of an idle group is not to be set
	}
	if old == "" {
		old = "\n" // an empty list is set by an empty line
	}
	return []spec.CgroupFile{{Name: file.Name, Value: old, Lifts: file.Lifts}}
}

// setLimit writes one limit.
func setLimit(path string, file spec.CgroupFile) error {
	err := cgroup.Write(path, file.Name, file.Value)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		if file.Lifts || file.Name == "memory.swap.max" {
			return nil // no such limit, or a kernel without swap accounting
		}
		controller, _, _ := strings.Cut(file.Name, ".")
		err = fmt.Errorf("the controller %q is not available in this cgroup", controller)
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	if err != nil {
		return fmt.Errorf("cannot set %s to %q: %w", file.Name, strings.TrimSpace(file.Value), err)
	}
	return nil
}
