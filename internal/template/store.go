package template

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm"
	"runv.dev/runv/vmm/snapshot"
)

// DefaultDir is where templates live unless the operator says otherwise.
const DefaultDir = "/var/cache/runv/templates"

// ErrNone says that there is no template with a key.
var ErrNone = errors.New("no template yet")

// Names in the directory of a store: for each template KEY.state and the memory
// file that it names; KEY.failed where it could not be built; and the lock.
const (
	stateSuffix  = ".state"
	memorySuffix = ".memory"
	failedSuffix = ".failed"
	lockName     = "lock"
)

// Store is a directory of templates. Only its owner may write there.
type Store struct{ path string }

// NewStore has the store at path, which need not exist.
func NewStore(path string) *Store { return &Store{path: path} }

// Template is an open template.
type Template struct {
	vmm.Snapshot
	memory *os.File
}

// Close closes the memory file; machines made from it keep their mapping.
func (t *Template) Close() error { return t.memory.Close() }

// Open opens the template with a key, if there is one that fits and is whole.
func (s *Store) Open(key Key) (*Template, error) {
	dir, err := s.openDir()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	t, err := open(dir, key.String()+stateSuffix, key.text)
	if err != nil {
		return nil, err
	}
	// How the ones that nobody uses are told from others.
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}
	_ = unix.UtimesNanoAt(int(dir.Fd()), key.String()+stateSuffix, now, unix.AT_SYMLINK_NOFOLLOW)
	return t, nil
}

// openDir opens the directory and makes sure that nobody else can write there.
func (s *Store) openDir() (*os.File, error) {
	dir, err := os.OpenFile(s.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		dir.Close()
		return nil, os.NewSyscallError("fstat", err)
	}
	if err := checkOwner(&st, 0o022); err != nil {
		dir.Close()
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return dir, nil
}

// checkOwner fails unless the file is ours and nobody else has the permissions.
func checkOwner(st *unix.Stat_t, others uint32) error {
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d and not to %d", st.Uid, os.Geteuid())
	}
	if st.Mode&others != 0 {
		return fmt.Errorf("others have access: mode %#o", st.Mode&0o7777)
	}
	return nil
}

// openFile opens a file of the store and checks that it is ours alone. Its time
// of access, by which Open notes the use, stays.
func openFile(dir *os.File, name string) (*os.File, *unix.Stat_t, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM { // another's file
		fd, err = unix.Openat(int(dir.Fd()), name, flags, 0)
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	st := new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		f.Close()
		return nil, nil, os.NewSyscallError("fstat", err)
	}
	if err = checkOwner(st, 0o077); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, st, nil
}

// open opens a template by the name of its state; text, unless empty, is what
// has shaped it.
func open(dir *os.File, name, text string) (*Template, error) {
	machine, err := readState(dir, name)
	if err != nil {
		return nil, err
	}
	if text != "" && string(machine.Label) != text {
		return nil, fmt.Errorf("%w: it was made of something else", snapshot.ErrDamaged)
	}
	memory, id, ok := strings.Cut(string(machine.Memory.File), "\n")
	if !ok || !isMemory(memory) {
		return nil, fmt.Errorf("%w: no memory file", snapshot.ErrDamaged)
	}
	f, st, err := openFile(dir, memory)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: its memory file is gone", snapshot.ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	if identity(st) != id {
		f.Close()
		return nil, fmt.Errorf("%w: its memory file has changed", snapshot.ErrDamaged)
	}
	return &Template{Snapshot: vmm.Snapshot{Machine: machine, Memory: f}, memory: f}, nil
}

// isMemory tells whether a name is one that a memory file can have.
func isMemory(name string) bool {
	return strings.HasSuffix(name, memorySuffix) && !strings.Contains(name, "/")
}

func readState(dir *os.File, name string) (*snapshot.Machine, error) {
	f, st, err := openFile(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Size > snapshot.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes", snapshot.ErrDamaged, st.Size)
	}
	data := make([]byte, st.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return snapshot.Decode(data)
}

// retryAfter is how long a template that could not be built is not tried again
// on the side.
const retryAfter = 10 * time.Minute

// Failed has the reason why the last attempt to build the template failed, if
// that was not long ago; else nil.
func (s *Store) Failed(key Key) error {
	path := filepath.Join(s.path, key.String()+failedSuffix)
	st, err := os.Lstat(path)
	if err != nil || time.Since(st.ModTime()) > retryAfter {
		return nil
	}
	reason, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return fmt.Errorf("it could not be built at %s: %s", st.ModTime().Format(time.RFC3339), reason)
}
