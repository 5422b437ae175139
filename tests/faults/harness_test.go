//go:build integration

// Package faults has hosts that fail: the runtime ends with one clear line or
// goes on, and leaves nothing behind.
package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// limit only ends a hang.
const limit = 4 * time.Minute

// setup is a bundle with busybox, and the way to run it.
type setup struct {
	runv, root, bundle, id string
	spec                   *specs.Spec
}

func newSetup(t *testing.T, script string) *setup {
	t.Helper()
	if os.Getenv("RUNV_IN_TEST_HOST") == "" {
		t.Fatal("not on the test host: `make faults` runs this there")
	}
	bin := os.Getenv("RUNV_TEST_BIN")
	if bin == "" {
		bin = "../../bin"
	}
	runv, err := filepath.Abs(filepath.Join(bin, "runv"))
	must(t, err)
	dir := t.TempDir()
	s := &setup{runv: runv, root: filepath.Join(dir, "state"), bundle: dir, id: "fault-" + strconv.Itoa(os.Getpid())}
	s.fill(t, filepath.Join(dir, "rootfs"))
	s.spec = spec.Example()
	s.spec.Process.Args = []string{"/bin/busybox", "sh", "-c", script}
	s.spec.Process.Terminal = false
	s.spec.Root.Readonly = false
	s.spec.Annotations = map[string]string{spec.AnnotationMemory: "256MiB", spec.AnnotationVCPUs: "1"}
	return s
}

// fill makes a root file system.
func (s *setup) fill(t *testing.T, rootfs string) {
	t.Helper()
	for _, name := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, name), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755))
}

func (s *setup) command(args ...string) *exec.Cmd {
	return exec.Command(s.runv, append([]string{"--root", s.root}, args...)...)
}

// running is a command under way.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan error
}

// start runs the container; prefix is what runs the runtime, if anything.
func (s *setup) start(t *testing.T, stdout *os.File, prefix ...string) *running {
	t.Helper()
	data, err := json.Marshal(s.spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.bundle, spec.ConfigName), data, 0o644))
	args := append(prefix, s.runv, "--root", s.root, "run", "--bundle", s.bundle, s.id)
	r := &running{cmd: exec.Command(args[0], args[1:]...), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if stdout != nil {
		r.cmd.Stdout = stdout
	}
	must(t, r.cmd.Start())
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() { r.cmd.Process.Kill() })
	return r
}

// end waits for the end, and checks that nothing is left.
func (r *running) end(t *testing.T, s *setup) int {
	t.Helper()
	select {
	case err := <-r.done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-time.After(limit):
		t.Fatalf("it does not end; stdout %.300q, stderr %.500q", r.stdout.String(), r.stderr.String())
	}
	if entries, err := os.ReadDir(s.root); err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		t.Errorf("left in the state directory: %v, %v", entries, err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/runv-" + s.id); err == nil {
		t.Error("the cgroup is left")
	}
	return r.cmd.ProcessState.ExitCode()
}

// oneLine checks that the runtime itself said one line, and that it has want.
func (r *running) oneLine(t *testing.T, want string) {
	t.Helper()
	text := strings.TrimSuffix(r.stderr.String(), "\n")
	if strings.ContainsRune(text, '\n') || !strings.HasPrefix(text, "runv: ") || !strings.Contains(text, want) {
		t.Errorf("stderr %.1000q; want one line with %q", text, want)
	}
}

// tmpfs mounts one of the given size.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
