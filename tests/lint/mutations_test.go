package lint

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutationsApply: a mutation of tests/hostile that does not fit the sources any
// more shows nothing.
func TestMutationsApply(t *testing.T) {
	found := false
	for _, f := range sources(t, ".patch") {
		if !strings.HasPrefix(f, "tests/hostile/mutations/") {
			continue
		}
		found = true
		patch, err := filepath.Abs(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "--dry-run", "--batch", "--forward", "-s", "-p1", "-i", patch)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: make it anew\n%s", f, err, out)
		}
	}
	if !found {
		t.Error("no mutation found: the rule checks nothing")
	}
}
