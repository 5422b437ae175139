// Package container is the OCI state machine on disk. Every container has a
// directory below the root directory:
//
//	<root>/<id>/state.json   what was created, and as what process it runs
//	<root>/<id>/agent.sock   the way to the agent in the guest
//
// A directory is locked (flock on the directory itself) for as long as a verb
// changes it, and state.json is replaced as a whole. The status is decided from
// the process that runs, not from what was written last: a verb may be killed
// between any two steps.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/spec"
)

const (
	stateName = "state.json"
	agentName = "agent.sock"
)

// maxState bounds a state.json, in bytes.
const maxState = 4 << 20

// Errors of the store. Engines look for these words.
var (
	ErrNotExist = errors.New("container does not exist")
	ErrExist    = errors.New("container with given ID already exists")
	// ErrIncomplete says that a create or delete was interrupted where there was
	// nothing but the directory. No process belongs to it.
	ErrIncomplete = errors.New("the container was never created or is half deleted: `runv delete` removes the rest")
	// ErrDamaged says that there is a state.json that makes no sense.
	ErrDamaged = errors.New("the container's state is damaged: `runv delete --force` removes it")
)

// StatePaused is the status of a container whose VM process is frozen. The
// specification leaves it to runtimes; this is the others' word.
const StatePaused specs.ContainerState = "paused"

// State is what state.json has.
type State struct {
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Created     time.Time         `json:"created"`

	// Status is how far the container has come; see [State.Now].
	Status specs.ContainerState `json:"status"`
	// Creator is the runtime process while Status is creating.
	Creator Process `json:"creator"`
	// Process is the VM process, once it exists.
	Process Process `json:"process"`

	// Hooks are those that run after create.
	Hooks specs.Hooks `json:"hooks,omitzero"`

	// Cgroup is the absolute path of the container's cgroup directory, empty if
	// it has none.
	Cgroup string `json:"cgroup,omitempty"`
	// CgroupPlanned is where the cgroup was about to be made. While Cgroup is
	// empty nobody knows whether it was, and whose it is: see sandbox.DropCgroup.
	CgroupPlanned string `json:"cgroupPlanned,omitempty"`
	// Unit is the systemd unit whose cgroup it is; empty: none.
	Unit string `json:"unit,omitempty"`

	// Machine is the size of the VM, and Limits are those in force, which an
	// update changes: see [spec.Limits].
	Machine spec.Machine          `json:"machine"`
	Limits  *specs.LinuxResources `json:"limits,omitempty"`
}

// Now has the status according to the processes that are alive, and to whether
// they are frozen.
func (s *State) Now() specs.ContainerState {
	switch {
	case s.Status == specs.StateCreating:
		if s.Creator.Alive() {
			return specs.StateCreating
		}
	case s.Process.Alive():
		if cgroup.Frozen(s.Cgroup) {
			return StatePaused
		}
		return s.Status
	}
	return specs.StateStopped
}

// OCI is the state as the specification defines it.
func (s *State) OCI() *specs.State { return s.As(s.Now()) }

// As is the state for a hook that runs with the container in the given status.
func (s *State) As(status specs.ContainerState) *specs.State {
	pid := 0
	if status != specs.StateStopped {
		pid = s.Process.PID
	}
	return &specs.State{
		Version:     specs.Version,
		ID:          s.ID,
		Status:      status,
		Pid:         pid,
		Bundle:      s.Bundle,
		Annotations: s.Annotations,
	}
}

// Store is the root directory.
type Store struct{ root string }

// NewStore uses the directory root, which need not exist yet.
func NewStore(root string) *Store { return &Store{root} }

// Container is a locked container.
type Container struct {
	State State
	dir   string
	lock  *os.File // the directory
}

// Create makes the directory of a new container and locks it. Nothing is written
// before the first Save.
func (s *Store) Create(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	if err := s.trustRoot(); err != nil {
		return nil, err
	}
	c := &Container{dir: filepath.Join(s.root, id), State: State{ID: id}}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// A directory without a state, and that nobody has locked, was left behind
	// by a create that died; it is taken over.
	if err := c.acquire(unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, ErrNotExist) {
			err = fmt.Errorf("%w: %s", ErrExist, id)
		}
		return nil, err
	}
	if err := c.read(); !errors.Is(err, ErrIncomplete) {
		c.Unlock()
		return nil, fmt.Errorf("%w: %s", ErrExist, id)
	}
	c.State = State{ID: id}
	return c, nil
}

// Open locks an existing container and reads its state. With ErrDamaged and
// ErrIncomplete the container is returned too, locked and with nothing but its
// id.
func (s *Store) Open(id string) (*Container, error) {
	if err := errors.Join(CheckID(id), s.trustRoot()); err != nil {
		return nil, err
	}
	c := &Container{dir: filepath.Join(s.root, id), State: State{ID: id}}
	if err := c.acquire(0); err != nil {
		return nil, err
	}
	err := c.read()
	if errors.Is(err, ErrUntrusted) {
		return nil, errors.Join(err, c.Unlock())
	}
	if err != nil {
		c.State = State{ID: id}
		return c, err
	}
	return c, nil
}

// Peek reads a container's state without locking: a single read of a file that
// is only ever replaced as a whole.
func (s *Store) Peek(id string) (*State, error) {
	if err := errors.Join(CheckID(id), s.trustRoot()); err != nil {
		return nil, err
	}
	c := &Container{dir: filepath.Join(s.root, id), State: State{ID: id}}
	if err := c.read(); err != nil {
		if errors.Is(err, ErrIncomplete) {
			err = fmt.Errorf("%w: %s", ErrNotExist, id)
		}
		return nil, err
	}
	return &c.State, nil
}

// List has the states of all containers by id. Directories without a readable
// state are left out and returned as damaged.
func (s *Store) List() (states []*State, damaged []string, err error) {
	if err := s.trustRoot(); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(s.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() || CheckID(entry.Name()) != nil {
			continue
		}
		state, err := s.Peek(entry.Name())
		switch {
		case err == nil:
			states = append(states, state)
		case errors.Is(err, ErrNotExist):
		default:
			damaged = append(damaged, entry.Name())
		}
	}
	slices.SortFunc(states, func(a, b *State) int { return a.Created.Compare(b.Created) })
	return states, damaged, nil
}

// acquire opens and locks the directory. Whoever waited for a lock may find that
// the container was deleted meanwhile, or deleted and created again.
func (c *Container) acquire(flag int) error {
	for {
		f, err := os.OpenFile(c.dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %s", ErrNotExist, c.State.ID)
			}
			return err
		}
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|flag)
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			f.Close()
			return os.NewSyscallError("flock", err)
		}
		mine, err1 := f.Stat()
		now, err2 := os.Lstat(c.dir)
		if err1 == nil && err2 == nil && os.SameFile(mine, now) {
			if err := trust(c.dir, mine, fs.ModeDir); err != nil {
				f.Close()
				return err
			}
			c.lock = f
			return nil
		}
		f.Close()
	}
}

func (c *Container) read() error {
	data, err := c.readState()
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(c.dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", ErrNotExist, c.State.ID)
		}
		return fmt.Errorf("%s: %w", c.State.ID, ErrIncomplete)
	}
	if err != nil {
		return err
	}
	var state State
	if len(data) > maxState || json.Unmarshal(data, &state) != nil || state.ID != c.State.ID {
		return fmt.Errorf("%s: %w", c.State.ID, ErrDamaged)
	}
	c.State = state
	return nil
}

// readState reads state.json, once it is known to be ours.
func (c *Container) readState() ([]byte, error) {
	dir, err := os.Lstat(c.dir)
	if err != nil {
		return nil, err
	}
	if err := trust(c.dir, dir, fs.ModeDir); err != nil {
		return nil, err
	}
	// O_NONBLOCK: a FIFO is an error, and no wait.
	f, err := os.OpenFile(filepath.Join(c.dir, stateName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%s: %w: it is a symbolic link: remove it", filepath.Join(c.dir, stateName), ErrUntrusted)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s: %w: it is a socket: remove it", filepath.Join(c.dir, stateName), ErrUntrusted)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := trust(f.Name(), info, 0); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxState+1))
}

// Dir is the container's directory.
func (c *Container) Dir() string { return c.dir }

// AgentSocket is the path of the socket that leads to the agent.
func (c *Container) AgentSocket() string { return filepath.Join(c.dir, agentName) }

// Save replaces state.json.
func (c *Container) Save() error {
	data, err := json.Marshal(&c.State)
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, stateName)
	// The lock is held, so one temporary name is enough, and a leftover goes.
	temp := path + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Unlock gives the lock back.
func (c *Container) Unlock() error {
	if c.lock == nil {
		return nil
	}
	err := c.lock.Close()
	c.lock = nil
	return err
}

// Relock takes the lock again and reads the state as it is now.
func (c *Container) Relock() error {
	if err := c.acquire(0); err != nil {
		return err
	}
	return c.read()
}

// Remove deletes the container's directory and gives the lock back. It may be
// gone already. The state goes last: until then an interrupted removal can be
// repeated.
func (c *Container) Remove() error {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c.Unlock()
	}
	for _, entry := range entries {
		if entry.Name() != stateName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, entry.Name())))
		}
	}
	return errors.Join(err, os.RemoveAll(c.dir), c.Unlock())
}
