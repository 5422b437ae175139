package template

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/snapshot"
)

// ErrBusy says that another process is building a template.
var ErrBusy = errors.New("another template is being built")

// A Maker boots a guest, waits until it is ready, writes its memory to a file
// and describes the machine.
type Maker func(memory *os.File) (*snapshot.Machine, error)

// lock takes the store for the building and removing of templates, which is
// done by one process at a time. Whoever only opens templates does not wait:
// files appear and disappear as a whole.
func (s *Store) lock(wait bool) (unlock func(), err error) {
	if err := os.MkdirAll(s.path, 0o700); err != nil {
		return nil, err
	}
	dir, err := s.openDir()
	if err != nil {
		return nil, err
	}
	dir.Close()
	f, err := os.OpenFile(filepath.Join(s.path, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, ErrBusy
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return func() { f.Close() }, nil
}

// BuildOptions say how to build.
type BuildOptions struct {
	Make Maker
	// Wait for other builds; else they are ErrBusy.
	Wait bool
	// Replace a template, unless it is new.
	Replace bool
}

// Build makes the template with a key, unless there is one by now.
func (s *Store) Build(key Key, o BuildOptions) (built bool, err error) {
	unlock, err := s.lock(o.Wait)
	if err != nil {
		return false, err
	}
	defer unlock()
	if t, err := s.Open(key); err == nil {
		defer t.Close()
		st, err := os.Lstat(filepath.Join(s.path, key.String()+stateSuffix))
		if err != nil || !o.Replace || time.Since(st.ModTime()) < retryAfter {
			return false, err
		}
	}
	failed := filepath.Join(s.path, key.String()+failedSuffix)
	if err := s.build(key, o.Make); err != nil {
		return false, errors.Join(err, os.WriteFile(failed, []byte(err.Error()), 0o600))
	}
	if err := os.Remove(failed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, s.trim(key)
}

// build writes the memory under a new name, and then the state that names it in
// one step. Whoever has an older template with the key open keeps it.
func (s *Store) build(key Key, maker Maker) error {
	var random [8]byte
	rand.Read(random[:])
	name := key.String() + "-" + hex.EncodeToString(random[:]) + memorySuffix
	path := filepath.Join(s.path, name)
	memory, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := s.finish(key, name, memory, maker); err != nil {
		return errors.Join(err, s.removeFile(name))
	}
	return nil
}

// setImmutable sets or clears the attribute that keeps even root from changing
// or removing a file.
func setImmutable(f *os.File, on bool) error {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	wanted := flags &^ immutable
	if on {
		wanted |= immutable
	}
	if wanted == flags {
		return nil
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, wanted)
}

// removeFile removes a file of the store.
func (s *Store) removeFile(name string) error {
	path := filepath.Join(s.path, name)
	if isMemory(name) {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_ = setImmutable(f, false) // the removal tells
		f.Close()
	}
	return os.Remove(path)
}

func (s *Store) finish(key Key, name string, memory *os.File, maker Maker) error {
	machine, err := maker(memory)
	if err != nil {
		return err
	}
	if err := memory.Sync(); err != nil {
		return err
	}
	// A change in place would reach the clones that run. Not every file system
	// has this attribute.
	_ = setImmutable(memory, true)
	var st unix.Stat_t
	if err := unix.Fstat(int(memory.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	machine.Label = []byte(key.text)
	machine.Memory.File = []byte(name + "\n" + identity(&st))
	return writeFile(s.path, key.String()+stateSuffix, machine.Encode())
}

// writeFile replaces a file as a whole and makes sure that it stays.
func writeFile(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
