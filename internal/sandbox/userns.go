package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// userNamespaces makes the user namespaces that Compose wants: one for each
// id-mapped bind mount, in their order. They are made by the runtime and not by
// the VM process, whose procfs need not be that of its PID namespace.
func userNamespaces(binds []spec.Bind) ([]*os.File, error) {
	var list []*os.File
	for _, b := range binds {
		if b.IDMap == nil {
			continue
		}
		ns, err := userNamespace(b.IDMap)
		if err != nil {
			closeAll(list)
			return nil, fmt.Errorf("mounts[%d]: user namespace for the id mapping: %w", b.Index, err)
		}
		list = append(list, ns)
	}
	return list, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// userNamespace makes a user namespace in which no process is: a child is born
// in it, which is traced, so that it stops before its first instruction.
func userNamespace(m *spec.IDMap) (*os.File, error) {
	// The tracer is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"runv"}, &os.ProcAttr{
		Dir: "/",
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			UidMappings:                idMaps(withServer(m.UIDs)),
			GidMappings:                idMaps(withServer(m.GIDs)),
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  unix.SIGKILL,
		},
	})
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
	killErr := child.Kill()
	_, waitErr := child.Wait()
	if err := errors.Join(err, killErr, waitErr); err != nil {
		if ns != nil {
			ns.Close()
		}
		return nil, err
	}
	return ns, nil
}

// Unmapped tells which ids of the file server a mount has no mapping for but the
// server's own.
type Unmapped struct{ UID, GID bool }

// noteUnmapped keeps what the file server has to know of the mount at tree.
func (r *Root) noteUnmapped(tree *os.File, m *spec.IDMap) error {
	unmapped := Unmapped{
		UID: len(withServer(m.UIDs)) > len(m.UIDs),
		GID: len(withServer(m.GIDs)) > len(m.GIDs),
	}
	if unmapped == (Unmapped{}) {
		return nil
	}
	var st unix.Statx_t
	if err := unix.Statx(int(tree.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return os.NewSyscallError("statx", err)
	}
	ids := []uint64{st.Mnt_id}
	if m.Recursive {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		ids = mountsBelow(string(table), st.Mnt_id)
	}
	if r.Unmapped == nil {
		r.Unmapped = make(map[uint64]Unmapped)
	}
	for _, id := range ids {
		r.Unmapped[id] = unmapped
	}
	return nil
}

// mountsBelow are the ids of a mount and of all below it, from a mountinfo of
// proc(5): each line begins with the mount's id and its parent's.
func mountsBelow(table string, top uint64) []uint64 {
	children := make(map[uint64][]uint64)
	for line := range strings.Lines(table) {
		var id, parent uint64
		if _, err := fmt.Sscan(line, &id, &parent); err == nil && id != parent {
			children[parent] = append(children[parent], id)
		}
	}
	ids := []uint64{top}
	for i := 0; i < len(ids); i++ {
		ids = append(ids, children[ids[i]]...)
	}
	return ids
}

// withServer maps the id of the file server, 0, too. It makes files as this one
// before it gives them to their owner, which the kernel refuses on a mount where
// the maker is not mapped. The id that it has in the file system is the last
// that is free; no file keeps it, see Root.Unmapped.
func withServer(list []specs.LinuxIDMapping) []specs.LinuxIDMapping {
	const server = 0
	free := uint32(math.MaxUint32 - 1)
	for changed := true; changed; {
		changed = false
		for _, m := range list {
			if m.HostID == server {
				return list
			}
			if free >= m.ContainerID && free-m.ContainerID < m.Size {
				free, changed = m.ContainerID-1, true
			}
		}
	}
	return append(slices.Clone(list), specs.LinuxIDMapping{ContainerID: free, HostID: server, Size: 1})
}

func idMaps(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	maps := make([]syscall.SysProcIDMap, len(list))
	for i, m := range list {
		maps[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return maps
}

// inheritedUserNamespaces are those that Start gave to this process, for the
// plan it was told. Compose takes them.
func inheritedUserNamespaces(binds []spec.Bind) []*os.File {
	var list []*os.File
	for _, b := range binds {
		if b.IDMap == nil {
			continue
		}
		fd := firstNamespaceFD + len(list)
		unix.CloseOnExec(fd)
		list = append(list, os.NewFile(uintptr(fd), "user namespace"))
	}
	return list
}

// setIDMap maps the ids of a tree of mounts that is not mounted yet.
func setIDMap(tree *os.File, recursive bool, ns *os.File) error {
	err := setAttr(tree, recursive, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("this file system cannot be id-mapped by this kernel: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("this mount cannot be id-mapped, perhaps as it already is: %w", err)
	}
	return err
}
