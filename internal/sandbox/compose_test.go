package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/thread"
)

// inMountNamespace runs f on a thread with a mount namespace and root directory
// of its own, which die with it.
func inMountNamespace(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root")
	}
	thread.Run(func() {
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = f()
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// bundle makes a root file system with traps and a directory beside it that
// must stay as it is.
func bundle(t *testing.T) (rootfs, outside string) {
	t.Helper()
	dir := t.TempDir()
	rootfs, outside = filepath.Join(dir, "rootfs"), filepath.Join(dir, "outside")
	for _, name := range []string{"etc", "usr", "deep/er"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, name), 0o755))
	}
	must(t, os.Mkdir(outside, 0o755))
	write(t, filepath.Join(rootfs, "etc/hosts"), "image")
	must(t, os.Symlink(outside, filepath.Join(rootfs, "abs")))
	must(t, os.Symlink("../../../../../../../../../../"+outside, filepath.Join(rootfs, "up")))
	must(t, os.Symlink("../run/systemd/resolv.conf", filepath.Join(rootfs, "etc/resolv.conf")))
	must(t, os.Symlink("deep", filepath.Join(rootfs, "link")))
	must(t, os.Symlink("loop", filepath.Join(rootfs, "loop")))
	return rootfs, outside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(content), 0o644))
}

// planOf has the plan for mounts as the spec package makes it.
func planOf(t *testing.T, rootfs string, readonly bool, mounts ...specs.Mount) *spec.Plan {
	t.Helper()
	p, err := spec.New(&specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"x"}, Cwd: "/"},
		Root:    &specs.Root{Path: rootfs, Readonly: readonly},
		Mounts:  mounts,
	}, "/", spec.Host{CPUs: 1, MemoryBytes: 4 << 30})
	must(t, err)
	return p
}

func bindOf(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: options}
}

func TestComposeAndEnter(t *testing.T) {
	rootfs, outside := bundle(t)
	data := t.TempDir()
	write(t, filepath.Join(data, "file"), "data")
	must(t, os.Mkdir(filepath.Join(data, "sub"), 0o755))
	hosts := filepath.Join(t.TempDir(), "hosts")
	write(t, hosts, "bound")

	p := planOf(t, rootfs, true,
		specs.Mount{Destination: "/proc", Type: "proc"},
		specs.Mount{Destination: "/dev", Type: "tmpfs"},
		specs.Mount{Destination: "/dev/pts", Type: "devpts"},
		bindOf(data, "/dev/shm"),
		bindOf(hosts, "/etc/hosts", "ro"),
		bindOf(hosts, "/etc/resolv.conf"),
		bindOf(data, "/link/new/dir", "rbind", "ro"),
		bindOf(data, "/rw"),
		bindOf(data, "/abs/x"),
		bindOf(hosts, "/up/y"),
		bindOf(hosts, "/top"),
	)
	inMountNamespace(t, func() error {
		r, err := Compose(p, false)
		if err != nil {
			return err
		}
		defer r.Dir.Close()
		if err := r.Enter(); err != nil {
			return err
		}
		for name, want := range map[string]string{
			"/etc/hosts":                   "bound",
			"/run/systemd/resolv.conf":     "bound",
			"/deep/new/dir/file":           "data",
			"/rw/file":                     "data",
			"/dev/shm/file":                "data",
			"/top":                         "bound",
			outside + "/x/file":            "data", // below the new root
			outside + "/y":                 "bound",
			"/../../../etc/hosts":          "bound",
			"/etc/../../../etc/../rw/file": "data",
		} {
			got, err := os.ReadFile(name)
			if err != nil || string(got) != want {
				t.Errorf("%s: %q, %v; want %q", name, got, err, want)
			}
		}
		for name, want := range map[string]error{
			"/new":               unix.EROFS, // root.readonly
			"/deep/new/dir/file": unix.EROFS,
			"/etc/hosts":         unix.EROFS,
			"/dev/x":             unix.EROFS, // a guest's mount covers this
			"/rw/written":        nil,
		} {
			f, err := os.Create(name)
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("create %s: %v; want %v", name, err, want)
			}
			if err == nil {
				f.Close()
			}
		}
		for _, name := range []string{"/proc/self", "/usr/bin", "/bin", data, filepath.Dir(rootfs)} {
			if _, err := os.Lstat(name); err == nil && name != filepath.Dir(rootfs) {
				t.Errorf("%s is visible", name)
			}
		}
		var st unix.Statfs_t
		for _, name := range []string{"/", "/rw", "/dev/shm", "/etc/hosts"} {
			if err := unix.Statfs(name, &st); err != nil {
				return err
			}
			const want = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
			if st.Flags&want != want {
				t.Errorf("%s has the flags %#x; want nosuid, nodev and noexec", name, st.Flags)
			}
		}
		return nil
	})

	// What the guest is told.
	for i, want := range map[int]string{
		3: "/dev/shm", 4: "/etc/hosts", 5: "/run/systemd/resolv.conf", 6: "/deep/new/dir", 7: "/rw", 8: outside + "/x", 9: outside + "/y",
	} {
		if got := p.Spec.Mounts[i].Source; got != want {
			t.Errorf("mounts[%d] is at %q; want %q", i, got, want)
		}
	}
	// Nothing happened outside of the root, and nothing stays mounted.
	entries, err := os.ReadDir(outside)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("%s has %v: a symbolic link was followed out of the root", outside, entries)
	}
	if got, _ := os.ReadFile(filepath.Join(rootfs, "etc/hosts")); string(got) != "image" {
		t.Errorf("the mount is visible outside: %q", got)
	}
	if _, err := os.Stat(filepath.Join(rootfs, "dev/shm")); err == nil {
		t.Error("a mount point below a guest's mount was left in the root file system")
	}
	if _, err := os.Stat(filepath.Join(rootfs, "proc")); err != nil {
		t.Errorf("the mount point in a read-only root: %v", err)
	}
}

// TestTmpfsOverDirectory: a tmpfs of the guest's looks as if it had been mounted
// on the directory, though the guest does not see that.
func TestTmpfsOverDirectory(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		destination, options string
		readonly, below      bool
		want                 string
	}{
		{"nothing to tell", "/dir", "nosuid", false, false, "nosuid"},
		{"nothing to tell in a read-only root", "/dir", "nosuid", true, false, "nosuid"},
		{"missing in a read-only root", "/no/dir", "nosuid", true, false, "nosuid mode=1777"},
		{"a bind below", "/dir", "nosuid", false, true, "nosuid mode=2710"},
		{"a bind below a missing one", "/no/dir", "nosuid", false, true, "nosuid mode=1777"},
		{"own mode", "/dir", "mode=700", false, true, "mode=700"},
		{"content", "/dir", "tmpcopyup gid=9", false, true, "tmpcopyup=.runv-lower gid=9"},
		{"content without a bind", "/dir", "tmpcopyup", false, false, "tmpcopyup"},
		{"content of a missing one", "/no/dir", "tmpcopyup", false, true, "tmpcopyup mode=1777"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rootfs, _ := bundle(t)
			dir := filepath.Join(rootfs, "dir")
			must(t, os.Mkdir(dir, 0o700))
			write(t, filepath.Join(dir, "content"), "of the image")
			must(t, os.Chown(dir, 5, 6))
			must(t, unix.Chmod(dir, 0o2710))
			bound := filepath.Join(t.TempDir(), "bound")
			write(t, bound, "bound")
			options := strings.Fields(tt.options)
			mounts := []specs.Mount{{Destination: tt.destination, Type: "tmpfs", Options: options}}
			if tt.below {
				mounts = append(mounts, bindOf(bound, tt.destination+"/f"))
			}
			p := planOf(t, rootfs, tt.readonly, mounts...)
			inMountNamespace(t, func() error {
				r, err := Compose(p, false)
				if err != nil {
					return err
				}
				defer r.Dir.Close()
				if err := r.Enter(); err != nil {
					return err
				}
				want := map[string]string{}
				if tt.below {
					want[tt.destination+"/f"] = "bound"
				}
				if strings.Contains(tt.want, "tmpcopyup=") {
					want["/dir/.runv-lower/content"] = "of the image"
				}
				for name, want := range want {
					if got, err := os.ReadFile(name); err != nil || string(got) != want {
						t.Errorf("%s: %q, %v; want %q", name, got, err, want)
					}
				}
				if err := os.WriteFile("/dir/.runv-lower/new", nil, 0o600); err == nil {
					t.Error("the covered directory can be written")
				}
				return nil
			})
			if got := strings.Join(p.Spec.Mounts[0].Options, " "); got != tt.want {
				t.Errorf("the guest is told %q; want %q", got, tt.want)
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 1 {
				t.Errorf("%v was left in the root file system", entries)
			}
		})
	}
}

// TestComposeInherits: what holds for a source on the host is told to the guest.
func TestComposeInherits(t *testing.T) {
	rootfs, _ := bundle(t)
	dir := t.TempDir()
	p := planOf(t, rootfs, false,
		bindOf(dir, "/plain"), bindOf(dir, "/exec", "exec", "atime"), bindOf(dir, "/more", "ro", "nosymfollow"), bindOf(rootfs, "/none", "rw"))
	inMountNamespace(t, func() error {
		must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
		must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NODEV|unix.MS_NODIRATIME, ""))
		r, err := Compose(p, false)
		if err != nil {
			return err
		}
		defer r.Dir.Close()
		for i, want := range []string{
			"nodev noexec nodiratime", "exec atime nodev nodiratime", "ro nosymfollow ro nodev noexec nodiratime nosymfollow", "rw",
		} {
			if got := strings.Join(p.Spec.Mounts[i].Options, " "); got != want {
				t.Errorf("%s: %q; want %q", p.Spec.Mounts[i].Destination, got, want)
			}
		}
		return nil
	})
}

func TestComposeErrors(t *testing.T) {
	rootfs, _ := bundle(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for _, c := range []struct {
		name  string
		mount specs.Mount
		want  string
	}{
		{"no source", bindOf("/nonexistent", "/x"), "no such file or directory"},
		{"directory on a file", bindOf(t.TempDir(), "/etc/hosts"), "not a directory"},
		{"file on a directory", bindOf(file, "/etc"), "is a directory"},
		{"below a file", bindOf(file, "/etc/hosts/x"), "not a directory"},
		{"loop", bindOf(file, "/loop/x"), "too many levels"},
	} {
		p := planOf(t, rootfs, false, c.mount)
		inMountNamespace(t, func() error {
			_, err := Compose(p, false)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "mounts[0]") {
				t.Errorf("%s: %v; want %q", c.name, err, c.want)
			}
			return nil
		})
	}
	p := planOf(t, filepath.Join(rootfs, "missing"), false)
	inMountNamespace(t, func() error {
		if _, err := Compose(p, false); err == nil || !strings.Contains(err.Error(), "missing: open_tree: no such file") {
			t.Errorf("missing root: %v", err)
		}
		return nil
	})
}
