// Package checkpoint is a saved container on disk, and how a runtime has a VM
// process write one.
//
// An image is two files in a directory: the machine (package snapshot), and what
// of its memory is not zero. The machine has the memory's SHA-256, and a label
// that says whose it is. The directory may be copied elsewhere; what it holds is
// as secret as the container's memory.
package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/vmm"
	"runv.dev/runv/vmm/snapshot"
)

// Names of the files.
const (
	stateName  = "runv.state"
	memoryName = "runv.memory"

	// markerName is CRIU's: without it podman takes a directory for one of a
	// checkpoint that failed. Nothing here reads it.
	markerName = "inventory.img"
)

// label is what an image says of itself.
type label struct {
	ID       string `json:"id"` // the container's, as the agent in the guest knows it
	Protocol int    `json:"protocol"`
}

// Encode is the machine's file, for a container and the checksum of its memory.
func Encode(m *snapshot.Machine, id string, sum []byte) ([]byte, error) {
	var err error
	if m.Label, err = json.Marshal(label{ID: id, Protocol: protocol.Version}); err != nil {
		return nil, err
	}
	m.Memory.File = []byte(hex.EncodeToString(sum))
	return m.Encode(), nil
}

// Image is one that is being read.
type Image struct {
	Machine *snapshot.Machine
	ID      string // the container's when it was saved

	memory *os.File
	hash   hash.Hash
}

// Open opens the image in a directory.
func Open(dir string) (*Image, error) {
	f, size, err := openFile(dir, stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no checkpoint of runv's is there: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > snapshot.MaxBytes {
		return nil, fmt.Errorf("%s: %w: %d bytes", f.Name(), snapshot.ErrDamaged, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	i := &Image{hash: sha256.New()}
	if i.Machine, err = snapshot.Decode(data); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	var l label
	if err := json.Unmarshal(i.Machine.Label, &l); err != nil || protocol.CheckID(l.ID) != nil {
		return nil, fmt.Errorf("%s: %w: not of a container", f.Name(), snapshot.ErrDamaged)
	}
	if l.Protocol != protocol.Version {
		return nil, fmt.Errorf("%s: saved by a runv whose agent speaks protocol version %d, this one %d: restore it with that runv", f.Name(), l.Protocol, protocol.Version)
	}
	i.ID = l.ID
	if i.memory, size, err = openFile(dir, memoryName); err != nil {
		return nil, err
	}
	if uint64(size) != i.Machine.Memory.Bytes() {
		return nil, errors.Join(fmt.Errorf("%s: %w: %d bytes, and not %d", i.memory.Name(), snapshot.ErrDamaged, size, i.Machine.Memory.Bytes()), i.Close())
	}
	return i, nil
}

// openFile opens a regular file that nobody else can change.
func openFile(dir, name string) (*os.File, int64, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	err = os.NewSyscallError("fstat", unix.Fstat(int(f.Fd()), &st))
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = fmt.Errorf("%s: not a regular file", f.Name())
	case int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		err = fmt.Errorf("%s: belongs to user %d, mode %#o: others could have changed it: chown it to %d and chmod it to 0600 if you trust it",
			f.Name(), st.Uid, st.Mode&0o7777, os.Geteuid())
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size, nil
}

// Snapshot is the machine, and its memory to be read once.
func (i *Image) Snapshot() *vmm.Snapshot {
	return &vmm.Snapshot{Machine: i.Machine, Copy: io.TeeReader(i.memory, i.hash)}
}

// Check tells whether the memory that was read is what was saved.
func (i *Image) Check() error {
	if sum := hex.EncodeToString(i.hash.Sum(nil)); sum != string(i.Machine.Memory.File) {
		return fmt.Errorf("%s: %w: checksum", i.memory.Name(), snapshot.ErrDamaged)
	}
	return nil
}

// Close closes the files.
func (i *Image) Close() error { return i.memory.Close() }
