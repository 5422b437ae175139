//go:build integration

// Package integration drives bin/runv the way a user or an engine does, on a
// host where KVM is real: tests/suite integration runs it in the test host. A
// host that lacks something fails the tests.
package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

// limit bounds every step: the test host is slow, but nothing takes that long.
// RUNV_TEST_LIMIT is another one, for what is traced.
var limit = 5 * time.Minute

// stateRoot is the --root of all tests.
const stateRoot = "/run/runv-integration"

// tools are the busybox applets a bundle has.
var tools = []string{
	"cat", "dd", "echo", "env", "false", "hostname", "id", "kill", "ls", "mkdir", "nproc", "pwd", "reboot", "rm",
	"sh", "sha256sum", "sleep", "stty", "tail", "touch", "tr", "true", "tty", "uname", "yes",
}

var runvPath string

// inGuest is set in the environment of tests which have a part in a container.
const inGuest = "RUNV_TEST_IN_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(inGuest) != "" {
		os.Exit(m.Run())
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if s := os.Getenv("RUNV_TEST_LIMIT"); s != "" {
		if limit, err = time.ParseDuration(s); err != nil {
			fmt.Fprintln(os.Stderr, "integration tests cannot run: RUNV_TEST_LIMIT:", err)
			return 1
		}
	}
	if runvPath, err = findRunv(); err != nil {
		fmt.Fprintln(os.Stderr, "integration tests cannot run:", err)
		return 1
	}
	// Most tests use this size, and so run in clones.
	out, err := exec.Command(runvPath, "template", "build", "--memory", "268435456", "--vcpus", "1").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "template build: %v: %s", err, out)
		return 1
	}
	before, err := snapshot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if leaks := before.leaks(); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "--- FAIL: left behind by the tests:\n\t%s\n", strings.Join(leaks, "\n\t"))
		return 1
	}
	return status
}

func findRunv() (string, error) {
	dir := os.Getenv("RUNV_TEST_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	path, err := filepath.Abs(filepath.Join(dir, "runv"))
	if err != nil {
		return "", err
	}
	out, err := exec.Command(path, "check").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s check: %w: %s", path, err, out)
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		return "", fmt.Errorf("install busybox-static: %w", err)
	}
	return path, nil
}

// things are what a container may leave behind on the host.
type things map[string]bool

// snapshot lists the runtime's processes, all mounts and cgroups, and the states.
func snapshot() (things, error) {
	t := make(things)
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, path := range processes {
		line, err := os.ReadFile(path)
		if bytes.Contains(line, []byte("\x00template\x00build\x00")) {
			continue // outlives who has started it
		}
		if err == nil && bytes.HasPrefix(line, []byte("runv\x00")) || bytes.HasPrefix(line, []byte(runvPath+"\x00")) {
			t["process "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		t["mount "+strings.TrimSpace(line)] = true
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			t["cgroup "+path] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(stateRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		t["state "+entry.Name()] = true
	}
	return t, nil
}

// leaks are the things that were not there before. What ends after a killed
// process gets a moment.
func (before things) leaks() []string {
	deadline := time.Now().Add(10 * time.Second)
	for {
		after, err := snapshot()
		if err != nil {
			return []string{err.Error()}
		}
		var leaks []string
		for thing := range after {
			if !before[thing] {
				leaks = append(leaks, thing)
			}
		}
		if len(leaks) == 0 || time.Now().After(deadline) {
			slices.Sort(leaks)
			return leaks
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// noLeaks checks that a test leaves nothing behind.
func noLeaks(t *testing.T) {
	t.Helper()
	before, err := snapshot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, leak := range before.leaks() {
			t.Errorf("left behind: %s", leak)
		}
	})
}

var lastID atomic.Int64

func newID() string { return fmt.Sprintf("it-%d-%d", os.Getpid(), lastID.Add(1)) }

// bundleOfSelf makes a bundle whose process is this program, to run one of the
// tests: the part of it that is for inGuest.
func bundleOfSelf(t *testing.T, test string, edit ...func(*specs.Spec)) string {
	t.Helper()
	const program = "/bin/integration.test"
	dir := bundle(t, []string{program, "-test.v", "-test.run", "^" + test + "$"}, append(edit, func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, inGuest+"=1", "TMPDIR=/tmp")
	})...)
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "rootfs", program), data, 0o755))
	return dir
}

// bundle makes a bundle with busybox whose process is args.
func bundle(t *testing.T, args []string, edit ...func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs")
	for _, name := range []string{"bin", "etc", "dev", "proc", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, name), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755))
	for _, tool := range tools {
		must(t, os.Symlink("busybox", filepath.Join(rootfs, "bin", tool)))
	}
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/motd"), []byte("of the image\n"), 0o644))
	s := spec.Example()
	s.Process.Args = args
	s.Process.Terminal = false
	s.Root.Readonly = false
	s.Annotations = map[string]string{spec.AnnotationMemory: "256MiB", spec.AnnotationVCPUs: "1"}
	for _, f := range edit {
		f(s)
	}
	writeConfig(t, dir, s)
	return dir
}

func writeConfig(t *testing.T, dir string, s *specs.Spec) {
	t.Helper()
	data, err := json.Marshal(s)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, spec.ConfigName), data, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	status         int
}

// command is runv with the tests' root.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, runvPath, append([]string{"--root", stateRoot}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// runv runs a command to its end.
func runv(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("runv %q did not end within %v; stdout %q, stderr %q", args, limit, stdout.String(), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("runv %q: %v", args, err)
	}
	return result{stdout.String(), stderr.String(), statusOf(cmd)}
}

// statusOf is an ended command's status as a shell shows it.
func statusOf(cmd *exec.Cmd) int {
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	return -1
}

// expect compares a result; a want of "*" is anything.
func (r result) expect(t *testing.T, stdout, stderr string, status int) {
	t.Helper()
	if stdout != "*" && r.stdout != stdout || stderr != "*" && r.stderr != stderr || r.status != status {
		t.Errorf("got status %d, stdout %q, stderr %q; want %d, %q, %q", r.status, r.stdout, r.stderr, status, stdout, stderr)
	}
}

// stateOf asks runv for a container's state.
func stateOf(t *testing.T, id string) specs.State {
	t.Helper()
	r := runv(t, nil, "state", id)
	r.expect(t, "*", "", 0)
	var s specs.State
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		t.Fatalf("state: %v: %q", err, r.stdout)
	}
	return s
}

// waitStatus waits until a container has a status.
func waitStatus(t *testing.T, id string, want specs.ContainerState) specs.State {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		s := stateOf(t, id)
		if s.Status == want {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %s; want %s", id, s.Status, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// background is a command that runs beside the test.
type background struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *lineReader
	outEnd io.Closer
	stderr bytes.Buffer
}

// inBackground starts a command and kills it when the test ends.
func inBackground(t *testing.T, args ...string) *background {
	t.Helper()
	b := &background{Cmd: command(context.Background(), args...)}
	var err error
	b.in, err = b.StdinPipe()
	must(t, err)
	out, err := b.StdoutPipe()
	must(t, err)
	b.out, b.outEnd = newLineReader(out), out
	b.Stderr = &b.stderr
	must(t, b.Start())
	t.Cleanup(func() {
		if b.ProcessState == nil {
			b.Process.Kill()
			b.Wait()
		}
	})
	return b
}

// end waits for the command and has its status.
func (b *background) end(t *testing.T) int {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- b.Wait() }()
	select {
	case <-done:
		return statusOf(b.Cmd)
	case <-time.After(limit):
		t.Fatalf("the command did not end within %v; stderr %q", limit, b.stderr.String())
	}
	return -1
}

// lineReader reads lines in the background, so that waiting for one is bounded.
type lineReader struct{ lines chan string }

func newLineReader(r io.Reader) *lineReader {
	l := &lineReader{lines: make(chan string, 1000)}
	go func() {
		defer close(l.lines)
		var line []byte
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			for _, c := range buf[:n] {
				if c == '\n' {
					l.lines <- strings.TrimRight(string(line), "\r")
					line = line[:0]
					continue
				}
				line = append(line, c)
			}
			if err != nil {
				return
			}
		}
	}()
	return l
}

// wait reads until a line contains want, and returns it.
func (l *lineReader) wait(t *testing.T, want string) string {
	t.Helper()
	timeout := time.After(limit)
	var seen []string
	for {
		select {
		case line, ok := <-l.lines:
			if !ok {
				t.Fatalf("the output ended without %q: %q", want, seen)
			}
			if strings.Contains(line, want) {
				return line
			}
			seen = append(seen, line)
		case <-timeout:
			t.Fatalf("no %q within %v: %q", want, limit, seen)
		}
	}
}
