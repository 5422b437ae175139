package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// HostNetworks names the network namespaces that count as the host's own: the
// runtime's, which is its caller's, and that of the host's first process as far
// as this one may know it.
func HostNetworks() ([]string, error) {
	own, err := namespaceID("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	first, err := namespaceID("/proc/1/ns/net")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return []string{own}, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.Compact([]string{own, first}), nil
}

// InNetwork reports whether this thread is in one of the network namespaces.
func InNetwork(list []string) (bool, error) {
	own, err := namespaceID("/proc/thread-self/ns/net")
	if err != nil {
		return false, err
	}
	return slices.Contains(list, own), nil
}

// namespaceID tells namespaces apart (namespaces(7)): by device and inode.
func namespaceID(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("network namespace: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}
