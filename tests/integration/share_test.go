//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/virtio/fs/fstest"
)

// TestPOSIX runs the conformance tests in a container, on its root file system.
func TestPOSIX(t *testing.T) {
	if os.Getenv(inGuest) != "" {
		fstest.POSIX(t, func(t *testing.T) string { return t.TempDir() })
		return
	}
	noLeaks(t)
	fstest.UseLargeXattrs(t)
	dir := bundleOfSelf(t, "TestPOSIX")
	r := runv(t, nil, "run", "-b", dir, newID())
	passed := regexp.MustCompile(`(?m)^    --- PASS: TestPOSIX/`).FindAllString(r.stdout, -1)
	other := regexp.MustCompile(`(?m)^    --- (FAIL|SKIP): .*`).FindAllString(r.stdout, -1)
	if r.status != 0 || len(passed) == 0 || len(other) != 0 {
		t.Errorf("status %d, %d passed, but %q\n%s%s", r.status, len(passed), other, r.stdout, r.stderr)
	}
	t.Logf("%d tests passed in the guest", len(passed))
}

// TestTmpfsOverDirectory: a tmpfs has the mode of the directory it is mounted on,
// and with tmpcopyup what is there, also with a bind mount below it.
func TestTmpfsOverDirectory(t *testing.T) {
	noLeaks(t)
	bound := filepath.Join(t.TempDir(), "bound")
	must(t, os.WriteFile(bound, []byte("bound\n"), 0o644))
	dir := bundle(t, []string{"sh", "-c", "busybox stat -c '%n %a %u' /none/at/all /plain /full; ls -A /plain /full; cat /plain/f /full/f /full/kept"},
		func(s *specs.Spec) {
			s.Root.Readonly = true
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/none/at/all", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/plain", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/plain/f", Source: bound, Options: []string{"bind"}},
				specs.Mount{Destination: "/full", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
				specs.Mount{Destination: "/full/f", Source: bound, Options: []string{"bind"}})
		})
	for name, mode := range map[string]os.FileMode{"plain": 0o711, "full": 0o775} {
		name = filepath.Join(dir, "rootfs", name)
		must(t, os.Mkdir(name, 0o755))
		must(t, os.WriteFile(filepath.Join(name, "kept"), []byte("of the image\n"), 0o644))
		must(t, os.Chmod(name, mode))
	}
	must(t, os.Chown(filepath.Join(dir, "rootfs/full"), 7, 7))
	runv(t, nil, "run", "-b", dir, newID()).expect(t,
		"/none/at/all 1777 0\n/plain 711 0\n/full 775 7\n/full:\nf\nkept\n\n/plain:\nf\nbound\nbound\nof the image\n", "", 0)
}

// TestListing: a directory of the host has the same entries in the guest, on
// whatever file system it is, and for whatever buffer a program reads it with.
func TestListing(t *testing.T) {
	noLeaks(t)
	const large = "/usr/bin"
	entries, err := os.ReadDir(large)
	must(t, err)
	var want strings.Builder
	for _, e := range entries {
		fmt.Fprintln(&want, e.Name())
	}
	dir := bundle(t, []string{"sh", "-c", "busybox ls -A /mnt | LC_ALL=C busybox sort; busybox ls -A /mnt | LC_ALL=C busybox sort"}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: large, Options: []string{"bind", "ro"}})
	})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, want.String()+want.String(), "", 0)
}
