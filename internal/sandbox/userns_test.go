package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func owner(t *testing.T, name string) [2]uint32 {
	t.Helper()
	info, err := os.Lstat(name)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}
}

// TestComposeIDMap has two id-mapped mounts of one directory, whose namespaces
// must not be mixed up, and one that is not.
func TestComposeIDMap(t *testing.T) {
	rootfs, _ := bundle(t)
	data := t.TempDir()
	write(t, filepath.Join(data, "file"), "data")
	must(t, os.Chown(filepath.Join(data, "file"), 3, 4))
	ids := func(host, size uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: size}}
	}
	mapped := func(destination string, uid, gid, size uint32) specs.Mount {
		m := bindOf(data, destination, "idmap")
		m.UIDMappings, m.GIDMappings = ids(uid, size), ids(gid, size)
		return m
	}
	p := planOf(t, rootfs, false,
		bindOf(data, "/plain"), mapped("/a", 1000, 2000, 10), bindOf(data, "/plain2"), mapped("/b", 500, 600, 4))
	namespaces, err := userNamespaces(p.Binds)
	must(t, err)
	if len(namespaces) != 2 {
		t.Fatalf("%d user namespaces; want 2", len(namespaces))
	}
	inMountNamespace(t, func() error {
		r, err := compose(p, false, namespaces)
		if err != nil {
			return err
		}
		defer r.Dir.Close()
		if len(r.Unmapped) != 2 {
			t.Errorf("mounts without an id for root: %v; want two", r.Unmapped)
		}
		for id, unmapped := range r.Unmapped {
			if unmapped != (Unmapped{UID: true, GID: true}) {
				t.Errorf("mount %d: %+v", id, unmapped)
			}
		}
		if err := r.Enter(); err != nil {
			return err
		}
		for name, want := range map[string][2]uint32{
			"/plain/file":  {3, 4},
			"/plain2/file": {3, 4},
			"/a/file":      {1003, 2004},
			"/b/file":      {503, 65534}, // group 4 is not mapped
		} {
			if got := owner(t, name); got != want {
				t.Errorf("%s belongs to %v; want %v", name, got, want)
			}
		}
		// As the file server does.
		must(t, unix.Mknod("/a/made", unix.S_IFREG|0o600, 0))
		must(t, os.Chown("/a/made", 1001, 2002))
		if got, want := owner(t, "/plain/made"), [2]uint32{1, 2}; got != want {
			t.Errorf("made through the mount: %v; want %v", got, want)
		}
		must(t, os.Chown("/a/file", 1005, 2006))
		if got, want := owner(t, "/plain/file"), [2]uint32{5, 6}; got != want {
			t.Errorf("after chown through the mount: %v; want %v", got, want)
		}
		return nil
	})
	for _, ns := range namespaces {
		if _, err := ns.Stat(); err == nil {
			t.Error("a user namespace is still open")
		}
	}
}

func TestWithServer(t *testing.T) {
	id := func(container, host, size uint32) specs.LinuxIDMapping {
		return specs.LinuxIDMapping{ContainerID: container, HostID: host, Size: size}
	}
	for _, c := range []struct {
		name string
		in   []specs.LinuxIDMapping
		want []specs.LinuxIDMapping // added
	}{
		{"mapped", []specs.LinuxIDMapping{id(5, 1, 2), id(1000, 0, 10)}, nil},
		{"not mapped", []specs.LinuxIDMapping{id(0, 100000, 65536)}, []specs.LinuxIDMapping{id(1<<32-2, 0, 1)}},
		{"the last is taken", []specs.LinuxIDMapping{id(1<<32-5, 8, 2), id(1<<32-3, 100, 2)}, []specs.LinuxIDMapping{id(1<<32-6, 0, 1)}},
		{"all but one are taken", []specs.LinuxIDMapping{id(1, 1, 1<<32-2)}, []specs.LinuxIDMapping{id(0, 0, 1)}},
	} {
		if got := withServer(c.in); !slices.Equal(got, slices.Concat(c.in, c.want)) {
			t.Errorf("%s: %v; want %v added", c.name, got, c.want)
		}
	}
}

func TestMountsBelow(t *testing.T) {
	const table = "1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / /a rw shared:1 - ext4 /dev/sda rw\n" +
		"23 22 0:5 / /a/b/d rw - tmpfs x rw\n22 20 0:4 / /a/b rw - tmpfs x rw\n24 20 0:4 / /a/c rw - tmpfs x rw\n30 1 0:6 / /e rw - tmpfs x rw\n"
	if got, want := mountsBelow(table, 20), []uint64{20, 22, 24, 23}; !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
	if got, want := mountsBelow(table, 30), []uint64{30}; !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

func TestComposeIDMapRefused(t *testing.T) {
	rootfs, _ := bundle(t)
	p := planOf(t, rootfs, false, bindOf(rootfs, "/x", "idmap=uids=0-1-1;gids=0-1-1"))
	p.Binds[0].Source = "/proc/self" // has no id-mapped mounts
	namespaces, err := userNamespaces(p.Binds)
	must(t, err)
	inMountNamespace(t, func() error {
		_, err := compose(p, false, namespaces)
		if err == nil || !strings.Contains(err.Error(), "cannot be id-mapped") || !strings.Contains(err.Error(), "mounts[0]") {
			t.Errorf("%v; want the mount and that it cannot be id-mapped", err)
		}
		return nil
	})
}
