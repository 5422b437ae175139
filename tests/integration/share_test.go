//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"regexp"
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
	const program = "/bin/integration.test"
	dir := bundle(t, []string{program, "-test.v", "-test.run", "^TestPOSIX$"}, func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, inGuest+"=1", "TMPDIR=/tmp")
	})
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "rootfs", program), data, 0o755))
	r := runv(t, nil, "run", "-b", dir, newID())
	passed := regexp.MustCompile(`(?m)^    --- PASS: TestPOSIX/`).FindAllString(r.stdout, -1)
	other := regexp.MustCompile(`(?m)^    --- (FAIL|SKIP): .*`).FindAllString(r.stdout, -1)
	if r.status != 0 || len(passed) == 0 || len(other) != 0 {
		t.Errorf("status %d, %d passed, but %q\n%s%s", r.status, len(passed), other, r.stdout, r.stderr)
	}
	t.Logf("%d tests passed in the guest", len(passed))
}
