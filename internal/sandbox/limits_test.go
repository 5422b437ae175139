package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/spec"
)

// TestLeftCgroup: a paused container that was killed leaves its cgroup frozen.
func TestLeftCgroup(t *testing.T) {
	path := testCgroup(t)
	must(t, cgroup.Write(path, "cgroup.freeze", "1"))
	c, err := CreateCgroup(spec.Cgroup{}, path)
	must(t, err)
	defer c.Close()
	if got := control(t, path, "cgroup.freeze"); got != "0" {
		t.Errorf("the new container's cgroup is frozen: %s", got)
	}
}

func TestSetLimits(t *testing.T) {
	path := testCgroup(t)
	// Files that every cgroup has stand for those of controllers.
	const depth, descendants = "cgroup.max.depth", "cgroup.max.descendants"
	expect := func(want string) {
		t.Helper()
		if got := control(t, path, depth) + " " + control(t, path, descendants); got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
	undo, err := SetLimits(path, "", []spec.CgroupFile{
		{Name: "memory.nonsense", Value: "max", Lifts: true}, {Name: depth, Value: "3"}, {Name: descendants, Value: "4"}, {Name: depth, Value: "5"},
	})
	must(t, err)
	expect("5 4")
	for value, want := range map[string]string{"x": "invalid argument", "99999999999999999999": "cannot set"} {
		_, err := SetLimits(path, "", []spec.CgroupFile{{Name: depth, Value: "7"}, {Name: descendants, Value: value}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", value, err, want)
		}
		expect("5 4")
	}
	if _, err := SetLimits(path, "", []spec.CgroupFile{{Name: depth, Value: "7"}, {Name: "nonsense.max", Value: "7"}}); err == nil || !strings.Contains(err.Error(), `"nonsense" is not available`) {
		t.Errorf("without its controller: %v", err)
	}
	expect("5 4")
	must(t, undo())
	expect("max max")

	if _, err := SetLimits("", "", []spec.CgroupFile{{Name: depth, Value: "7"}}); err == nil || !strings.Contains(err.Error(), "has none") {
		t.Errorf("without a cgroup: %v", err)
	}
	undo, err = SetLimits("", "", nil)
	must(t, err)
	must(t, undo())
}

// TestCurrent: what a control file says is not always what is to be written to it.
func TestCurrent(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"io.max":      "8:16 rbps=1 wbps=max riops=max wiops=max\n8:0 rbps=2 wbps=max riops=max wiops=max\n",
		"io.weight":   "default 100\n8:0 50\n",
		"cpu.weight":  "0\n",
		"cpuset.cpus": "\n",
		"cpu.max":     "max 100000\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	for _, tt := range []struct{ name, value, want string }{
		{"io.max", "8:0 rbps=7", "8:0 rbps=2 wbps=max riops=max wiops=max"},
		{"io.max", "8:1 rbps=7", "8:1 rbps=max wbps=max riops=max wiops=max"},
		{"io.weight", "7", "100"},
		{"cpuset.cpus", "0", "\n"},
		{"cpu.max", "1000 2000", "max 100000"},
	} {
		if got := current(dir, spec.CgroupFile{Name: tt.name, Value: tt.value}); len(got) != 1 || got[0].Name != tt.name || got[0].Value != tt.want {
			t.Errorf("%s after %q is undone by %+v; want %q", tt.name, tt.value, got, tt.want)
		}
	}
	for _, name := range []string{"cpu.weight", "missing"} {
		if got := current(dir, spec.CgroupFile{Name: name, Value: "7"}); got != nil {
			t.Errorf("%s is undone by %+v", name, got)
		}
	}
}

// testCgroup makes an empty cgroup.
func testCgroup(t *testing.T) string {
	t.Helper()
	path := CgroupPath(spec.Cgroup{Path: fmt.Sprintf("runv-test-%d-%s", os.Getpid(), t.Name())}, "x")
	if path == "" {
		t.Fatal("no cgroup v2 on /sys/fs/cgroup or /sys/fs/cgroup/unified: mount one")
	}
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() { must(t, RemoveCgroup(path)) })
	return path
}

func control(t *testing.T, dir, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, file))
	must(t, err)
	return strings.TrimSpace(string(content))
}
