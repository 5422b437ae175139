package lint

import (
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "runv.dev/runv/"

// allowed lists, for each package directory, the package directories of this
// module it may import. "x/..." stands for x and all below it; the first entry
// that matches a package counts, and a package without an entry fails the test.
var allowed = []struct {
	dir     string
	imports []string
}{
	{"cmd/runv", []string{"internal/...", "vmm/...", "virtio/...", "agent/client", "agent/protocol"}},
	{"cmd/runv-agent", []string{"agent/guest/...", "agent/protocol"}},

	{"internal/guestmem", nil},
	{"internal/eventfd", nil},
	{"internal/assets", nil},
	{"internal/spec", nil},
	{"internal/seccomp", nil},
	{"internal/loopback", nil},
	{"internal/thread", nil},
	{"internal/...", []string{"internal/...", "vmm/...", "virtio/...", "agent/client", "agent/protocol"}},

	{"vmm/kvm", nil},
	{"vmm/boot", []string{"internal/guestmem"}},
	{"vmm/...", []string{"vmm/...", "virtio", "virtio/mmio", "internal/guestmem", "internal/eventfd"}},

	{"virtio", []string{"virtio/virtqueue", "internal/guestmem", "internal/eventfd"}},
	{"virtio/virtqueue", []string{"internal/guestmem"}},
	{"virtio/mmio", []string{"virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd", "internal/logging"}},
	{"virtio/virtiotest", []string{"virtio", "virtio/mmio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd"}},
	// A device knows itself and what all devices share: no other device, no VMM.
	{"virtio/console/...", []string{"virtio/console/...", "virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd"}},
	{"virtio/fs/...", []string{"virtio/fs/...", "virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd", "internal/logging", "internal/thread"}},
	{"virtio/vsock/vsocktest", []string{"virtio/...", "internal/guestmem", "internal/eventfd"}},
	{"virtio/vsock/...", []string{"virtio/vsock/...", "virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd", "internal/logging"}},
	{"virtio/balloon", []string{"virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd"}},
	{"virtio/rng", []string{"virtio", "virtio/virtqueue", "internal/guestmem", "internal/eventfd"}},

	{"agent/protocol", nil},
	{"agent/client", []string{"agent/protocol"}},
	// The guest's side knows neither the VMM nor the devices. Filters of system
	// calls are made, a loopback device is brought up, and threads are used up
	// alike on both sides.
	{"agent/guest/...", []string{"agent/guest/...", "agent/protocol", "internal/seccomp", "internal/loopback", "internal/thread"}},

	{"guest-rootfs/...", []string{"guest-rootfs/...", "agent/guest"}},
	{"tests/cage", []string{"internal/cage"}},
	{"tests/chaos", []string{"internal/spec"}},
	{"tests/bundle", []string{"internal/spec"}},
	{"tests/...", []string{"tests/..."}},
	{"kernel", nil},
}

// confined lists modules that only some directories may import.
var confined = map[string][]string{
	"github.com/urfave/cli/v2":     {"cmd/runv"},
	"github.com/hanwen/go-fuse/v2": {"virtio/fs/...", "tests/..."},
	"github.com/mdlayher/vsock":    {"agent/guest/...", "cmd/runv-agent", "tests/..."},
	"github.com/containerd/ttrpc":  {"agent/...", "cmd/runv-agent", "tests/..."},
}

func TestImports(t *testing.T) {
	for _, f := range sources(t, ".go") {
		if strings.HasSuffix(f, "_test.go") {
			continue // a test may bring two layers together
		}
		dir := path.Dir(f)
		may, known := allowedFor(dir)
		if !known {
			t.Errorf("%s: package %s is not in the import table", f, dir)
			continue
		}
		for _, imported := range importsOf(t, f) {
			if rest, ours := strings.CutPrefix(imported, module); ours && !matches(may, rest) {
				t.Errorf("%s: %s must not import %s", f, dir, rest)
			}
		}
	}
}

func TestConfinedModules(t *testing.T) {
	for _, f := range sources(t, ".go") {
		for _, imported := range importsOf(t, f) {
			for mod, dirs := range confined {
				if (imported == mod || strings.HasPrefix(imported, mod+"/")) && !matches(dirs, path.Dir(f)) {
					t.Errorf("%s: %s is for %s only", f, mod, strings.Join(dirs, ", "))
				}
			}
		}
	}
}

// unsafe stays where a reviewer looks for it, and nothing needs a C compiler.
func TestUnsafe(t *testing.T) {
	for _, f := range sources(t, ".go") {
		base := strings.TrimSuffix(strings.TrimSuffix(path.Base(f), ".go"), "_test")
		if generated(f) || strings.HasSuffix(base, "_unsafe") {
			continue
		}
		if imports := importsOf(t, f); slices.Contains(imports, "unsafe") {
			t.Errorf("%s: unsafe belongs in a file named *_unsafe.go", f)
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, f := range sources(t, ".go") {
		if slices.Contains(importsOf(t, f), "C") {
			t.Errorf("%s: uses cgo", f)
		}
	}
}

func allowedFor(dir string) (imports []string, known bool) {
	for _, a := range allowed {
		if matches([]string{a.dir}, dir) {
			return a.imports, true
		}
	}
	return nil, false
}

func matches(patterns []string, dir string) bool {
	for _, p := range patterns {
		base, below := strings.CutSuffix(p, "/...")
		if dir == base || below && strings.HasPrefix(dir, base+"/") {
			return true
		}
	}
	return false
}

func importsOf(t *testing.T, name string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, read(t, name), parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		imports = append(imports, p)
	}
	return imports
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, dir string
		want         bool
	}{
		{"virtio", "virtio", true},
		{"virtio", "virtio/fs", false},
		{"virtio/...", "virtio", true},
		{"virtio/...", "virtio/fs/passthrough", true},
		{"virtio/...", "virtiofs", false},
	} {
		if got := matches([]string{tc.pattern}, tc.dir); got != tc.want {
			t.Errorf("matches(%q, %q) = %v, want %v", tc.pattern, tc.dir, got, tc.want)
		}
	}
}
