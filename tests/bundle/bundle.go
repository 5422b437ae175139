//go:build integration

// Package bundle runs one container with the real runtime on the test host, in
// a bundle and with a state directory of its own, and looks for what is left.
package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

// Limit only ends a hang; the runtime's own time limits are shorter.
const Limit = 4 * time.Minute

// Bundle is a bundle, and the runtime for it.
type Bundle struct {
	Runv, Root, Dir, ID string
	Flags               []string // of runv, before the verb
	Spec                *specs.Spec
}

// New makes a bundle with an empty root file system, below rootfs, of a small
// VM whose process has these arguments.
func New(t *testing.T, args ...string) *Bundle {
	t.Helper()
	if os.Getenv("RUNV_IN_TEST_HOST") == "" {
		t.Fatal("not on the test host: `make integration` runs this there")
	}
	bin := os.Getenv("RUNV_TEST_BIN")
	if bin == "" {
		bin = "../../bin"
	}
	runv, err := filepath.Abs(filepath.Join(bin, "runv"))
	must(t, err)
	dir := t.TempDir()
	b := &Bundle{
		Runv: runv, Root: filepath.Join(dir, "state"), Dir: dir,
		ID: filepath.Base(os.Args[0]) + "-" + strconv.Itoa(os.Getpid()), Spec: spec.Example(),
	}
	b.Spec.Process.Args = args
	b.Spec.Process.Terminal = false
	b.Spec.Annotations = map[string]string{spec.AnnotationMemory: "256MiB", spec.AnnotationVCPUs: "1"}
	MakeRoot(t, b.Rootfs())
	return b
}

// Rootfs is the root file system that New has made.
func (b *Bundle) Rootfs() string { return filepath.Join(b.Dir, "rootfs") }

// MakeRoot makes the directories of a root file system.
func MakeRoot(t *testing.T, rootfs string) {
	t.Helper()
	for _, name := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, name), 0o755))
	}
}

// Command is one of the runtime.
func (b *Bundle) Command(args ...string) *exec.Cmd {
	return exec.Command(b.Runv, append(append([]string{"--root", b.Root}, b.Flags...), args...)...)
}

// Run is a `runv run` under way.
type Run struct {
	Cmd            *exec.Cmd
	Stdout, Stderr bytes.Buffer
	Done           chan error
	Begun          time.Time

	bundle *Bundle
}

// Run runs the container; stdout is its own file, or nil to keep what comes, and
// prefix is what runs the runtime, if anything.
func (b *Bundle) Run(t *testing.T, stdout *os.File, prefix ...string) *Run {
	t.Helper()
	data, err := json.Marshal(b.Spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.Dir, spec.ConfigName), data, 0o644))
	args := append(prefix, b.Command("run", "--bundle", b.Dir, b.ID).Args...)
	r := &Run{Cmd: exec.Command(args[0], args[1:]...), Done: make(chan error, 1), Begun: time.Now(), bundle: b}
	r.Cmd.Stdout, r.Cmd.Stderr = &r.Stdout, &r.Stderr
	if stdout != nil {
		r.Cmd.Stdout = stdout
	}
	must(t, r.Cmd.Start())
	go func() { r.Done <- r.Cmd.Wait() }()
	t.Cleanup(func() { r.Cmd.Process.Kill() })
	return r
}

// End waits for the end, checks that nothing is left, and has the exit status.
func (r *Run) End(t *testing.T) int {
	t.Helper()
	select {
	case err := <-r.Done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-time.After(Limit):
		t.Fatalf("it does not end; stdout %.300q, stderr %.500q", r.Stdout.String(), r.Stderr.String())
	}
	if states, err := os.ReadDir(r.bundle.Root); err != nil && !errors.Is(err, fs.ErrNotExist) || len(states) > 0 {
		t.Errorf("left in the state directory: %v, %v", states, err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/runv-" + r.bundle.ID); err == nil {
		t.Error("the cgroup is left")
	}
	return r.Cmd.ProcessState.ExitCode()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
