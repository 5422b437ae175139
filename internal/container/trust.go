package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ErrUntrusted says that somebody else could have made, or changed, what belongs
// to a container.
var ErrUntrusted = errors.New("not trusted")

// trust returns an error unless the file belongs to this user, nobody else may
// write to it, and it is of the given type. What is said in there is acted upon:
// processes are killed, cgroups and directories removed.
func trust(path string, info fs.FileInfo, typ fs.FileMode) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: %w: its owner is not known", path, ErrUntrusted)
	}
	const othersWrite = 0o022
	switch {
	case info.Mode().Type() != typ:
		return fmt.Errorf("%s: %w: it is of another type (%v): remove it", path, ErrUntrusted, info.Mode())
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s: %w: it belongs to user %d and not to %d: remove it, or choose another --root", path, ErrUntrusted, st.Uid, os.Geteuid())
	case typ != fs.ModeSocket && info.Mode()&othersWrite != 0:
		// A socket's mode counts for little: its directory's does.
		return fmt.Errorf("%s: %w: others may write to it (%v): chmod go-w, after a look at what is in there", path, ErrUntrusted, info.Mode())
	}
	return nil
}

// trustRoot checks the root directory, which may not exist.
func (s *Store) trustRoot() error {
	info, err := os.Stat(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return trust(s.root, info, fs.ModeDir)
}
