package template

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a store. What goes beyond them is removed when a template is built,
// the longest unused first.
const (
	maxTemplates = 16
	maxBytes     = 2 << 30
)

// Info describes one template.
type Info struct {
	Key         string    `json:"key"`
	MemoryBytes uint64    `json:"memoryBytes"` // of the guest
	VCPUs       int       `json:"vcpus"`
	DiskBytes   uint64    `json:"diskBytes"`
	Built       time.Time `json:"built"`
	Used        time.Time `json:"used"`
	// Problem is why it cannot be used; empty if it can, by a container of this
	// shape that this program starts now.
	Problem string `json:"problem,omitempty"`

	memory  string
	foreign bool // another runv's: it may be of use to that
}

// List has all templates, the last used first.
func (s *Store) List() ([]Info, error) {
	dir, err := s.openDir()
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := filepath.Glob(filepath.Join(s.path, "*"+stateSuffix))
	if err != nil {
		return nil, err
	}
	var list []Info
	for _, path := range names {
		info, err := describe(dir, filepath.Base(path))
		if errors.Is(err, ErrNone) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	slices.SortFunc(list, func(a, b Info) int { return b.Used.Compare(a.Used) })
	return list, nil
}

func describe(dir *os.File, name string) (Info, error) {
	info := Info{Key: strings.TrimSuffix(name, stateSuffix)}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return info, ErrNone
	}
	if err != nil {
		return info, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	info.Built, info.Used = time.Unix(st.Mtim.Unix()), time.Unix(st.Atim.Unix())
	info.DiskBytes = uint64(st.Blocks) * 512
	machine, err := readState(dir, name)
	if err != nil {
		info.Problem = err.Error()
		return info, nil
	}
	info.MemoryBytes, info.VCPUs = machine.MemoryBytes, len(machine.VCPUs)
	info.memory, _, _ = strings.Cut(string(machine.Memory.File), "\n")
	if isMemory(info.memory) && unix.Fstatat(int(dir.Fd()), info.memory, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		info.DiskBytes += uint64(st.Blocks) * 512
	}
	t, err := open(dir, name, "")
	if err != nil {
		info.Problem = err.Error()
		return info, nil
	}
	t.Close()
	info.Problem, info.foreign = outdated(string(machine.Label))
	return info, nil
}

// outdated tells what has changed since a template with this key was made.
// by another program it may still be of use.
func outdated(text string) (problem string, foreign bool) {
	current, err := Shape{}.MakeKey()
	if err != nil {
		return err.Error(), false
	}
	for line := range strings.Lines(text) {
		what, _, _ := strings.Cut(line, " ")
		switch {
		case what == "memory" || what == "vcpus" || strings.Contains(current.text, line):
		case what == "boot":
			return "made before the host was booted", false
		case what == "program":
			return "made by another runv", true
		}
	}
	return "", false
}

// Prune removes the templates that cannot be used, or all, and what else an
// interrupted build has left. It returns those that it has removed.
func (s *Store) Prune(all bool) ([]Info, error) {
	if _, err := os.Lstat(s.path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	unlock, err := s.lock(true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	var removed []Info
	for _, info := range list {
		if all || info.Problem != "" {
			removed = append(removed, info)
		}
	}
	failed, err := filepath.Glob(filepath.Join(s.path, "*"+failedSuffix))
	for _, path := range failed {
		err = errors.Join(err, os.Remove(path))
	}
	return removed, errors.Join(err, s.remove(removed))
}

// trim removes the templates that cannot be used, and those beyond the bounds.
// The one with the key stays. The caller holds the lock.
func (s *Store) trim(key Key) error {
	list, err := s.List()
	if err != nil {
		return err
	}
	// It counts first.
	slices.SortStableFunc(list, func(a, b Info) int {
		switch key.String() {
		case a.Key:
			return -1
		case b.Key:
			return 1
		}
		return 0
	})
	var excess []Info
	var bytes uint64
	for i, info := range list {
		bytes += info.DiskBytes
		if i > 0 && (info.Problem != "" && !info.foreign || i >= maxTemplates || bytes > maxBytes) {
			excess = append(excess, info)
		}
	}
	return s.remove(excess)
}

// remove removes templates, and every file that no other one needs. The caller
// holds the lock.
func (s *Store) remove(list []Info) error {
	var errs []error
	for _, info := range list {
		errs = append(errs, os.Remove(filepath.Join(s.path, info.Key+stateSuffix)))
	}
	left, err := s.List()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	keep := map[string]bool{lockName: true}
	for _, info := range left {
		keep[info.Key+stateSuffix], keep[info.memory] = true, true
	}
	entries, err := os.ReadDir(s.path)
	errs = append(errs, err)
	for _, e := range entries {
		name := e.Name()
		ours := strings.HasSuffix(name, stateSuffix) || isMemory(name) || strings.HasPrefix(name, ".new-")
		if ours && !keep[name] {
			errs = append(errs, s.removeFile(name))
		}
	}
	return errors.Join(errs...)
}
