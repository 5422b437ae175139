// Package kernel has no code in Go: its tests drive kernel/build with a source
// tree that looks like Linux but compiles in no time.
package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fakeMakefile answers the targets kernel/build uses. What it "compiles" depends
// on the configuration and on fake.c, and each compilation leaves a line in
// $FAKE_COUNT. Kconfig's silence about what it cannot give is imitated by
// $FAKE_DROP and $FAKE_FORCE.
const fakeMakefile = `VERSION = 6
PATCHLEVEL = %d
allnoconfig:
	grep -vE '=n$$|^#' $(KCONFIG_ALLCONFIG) | grep -v "^CONFIG_$(FAKE_DROP)=" >.config
	test -z "$(FAKE_FORCE)" || echo "CONFIG_$(FAKE_FORCE)=y" >>.config
kernelrelease:
	@echo 6.12.0-fake
vmlinux:
	echo x >>$(FAKE_COUNT)
	test -z "$(FAKE_FAIL)"
	test -z "$(FAKE_SLEEP)" || { echo $$$$ >"$(FAKE_SLEEP)"; exec sleep 600; }
	cat .config fake.c $(wildcard net/tsi/*.c) | sed 's/^\(CONFIG_[A-Z_]*\)=.*/int \1;/' >all.c
	$(CC) -x c -fPIC -shared -nostdlib all.c -o vmlinux
mrproper:
	rm -f .config
`

type env struct {
	t      *testing.T
	kernel string // a copy of kernel/ with a short config
	tree   string // the fake Linux
	cache  string
	count  string
}

func newEnv(t *testing.T) *env {
	t.Helper()
	dir := t.TempDir()
	e := &env{
		t:      t,
		kernel: filepath.Join(dir, "runv", "kernel"),
		tree:   filepath.Join(dir, "linux"),
		cache:  filepath.Join(dir, "cache"),
		count:  filepath.Join(dir, "count"),
	}
	script, err := os.ReadFile("build")
	if err != nil {
		t.Fatal(err)
	}
	e.write(filepath.Join(e.kernel, "build"), string(script))
	e.write(filepath.Join(e.kernel, "config"), "# a comment\nCONFIG_SMP=y\nCONFIG_NR_CPUS=64\nCONFIG_PCI=n\n")
	e.write(filepath.Join(e.tree, "Makefile"), fmt.Sprintf(fakeMakefile, 12))
	e.write(filepath.Join(e.tree, "Kconfig"), "")
	e.write(filepath.Join(e.tree, "arch/x86/Kconfig"), "")
	e.write(filepath.Join(e.tree, "fake.c"), "int fake = 1;\n")
	return e
}

func (e *env) write(path, text string) {
	e.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		e.t.Fatal(err)
	}
}

// command is kernel/build with the given arguments and VAR=value settings.
func (e *env) command(args []string, vars ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(e.kernel, "build"), args...)
	cmd.Env = append(os.Environ(),
		"XDG_CACHE_HOME="+e.cache, "KERNEL_SRC="+e.tree, "KERNEL_SHA256=", "CC=",
		"FAKE_COUNT="+e.count, "FAKE_DROP=", "FAKE_FORCE=", "FAKE_FAIL=", "FAKE_SLEEP=")
	cmd.Env = append(cmd.Env, vars...)
	return cmd
}

// run is command, run to its end.
func (e *env) run(args []string, vars ...string) (stdout, stderr string, err error) {
	cmd := e.command(args, vars...)
	var o, r bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &r
	err = cmd.Run()
	return o.String(), r.String(), err
}

// build runs kernel/build, expects success and returns the bytes it installed.
func (e *env) build(vars ...string) []byte {
	e.t.Helper()
	out := filepath.Join(e.kernel, "..", "bin", "vmlinux")
	stdout, stderr, err := e.run(nil, vars...)
	if err != nil {
		e.t.Fatalf("build: %v\n%s", err, stderr)
	}
	if got := filepath.Clean(strings.TrimSpace(stdout)); got != filepath.Clean(out) {
		e.t.Fatalf("build printed %q, want %q", got, out)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		e.t.Fatal(err)
	}
	if !bytes.HasPrefix(data, []byte("\x7fELF")) {
		e.t.Fatalf("installed file is not an ELF file: %.20q", data)
	}
	return data
}

// compiled says how many times the fake kernel was compiled.
func (e *env) compiled() int {
	data, err := os.ReadFile(e.count)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.t.Fatal(err)
	}
	return bytes.Count(data, []byte("x\n"))
}

func (e *env) glob(pattern string) []string {
	e.t.Helper()
	names, err := filepath.Glob(filepath.Join(e.cache, "runv", "kernel", pattern))
	if err != nil {
		e.t.Fatal(err)
	}
	return names
}

func tarball(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("tar", "-caf", path, "-C", filepath.Dir(dir), filepath.Base(dir)).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return path
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name  string
		setup func(*env) (args, vars []string)
		want  string
	}{
		{"unknown flag", func(e *env) ([]string, []string) { return []string{"-z"}, nil }, "usage: kernel/build"},
		{"stray argument", func(e *env) ([]string, []string) { return []string{"out"}, nil }, "usage: kernel/build"},
		{"jobs", func(e *env) ([]string, []string) { return []string{"-j", "0"}, nil }, "-j 0: not a number of jobs"},
		{"compiler", func(e *env) ([]string, []string) { return nil, []string{"CC=no-such-cc"} }, "CC=no-such-cc: command not found"},
		{"missing source", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=" + e.tree + "/nowhere"}
		}, "/nowhere: no such file or directory"},
		{"checksum without source", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=", "KERNEL_SHA256=00"}
		}, "KERNEL_SHA256 is set without KERNEL_SRC"},
		{"checksum of a directory", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SHA256=00"}
		}, "KERNEL_SHA256 is for tarballs"},
		{"wrong checksum", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=" + tarball(e.t, e.tree, "linux.tar"), "KERNEL_SHA256=AB"}
		}, "KERNEL_SHA256 asks for ab"},
		{"directory that is no kernel", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=" + e.t.TempDir()}
		}, "not a Linux source tree"},
		{"file that is no tarball", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=" + filepath.Join(e.tree, "fake.c")}
		}, "unpacking fake.c failed, see "},
		{"tarball that is no kernel", func(e *env) ([]string, []string) {
			return nil, []string{"KERNEL_SRC=" + tarball(e.t, e.kernel, "linux.tar.gz")}
		}, "not a Linux source tree"},
		{"another series", func(e *env) ([]string, []string) {
			e.write(filepath.Join(e.tree, "Makefile"), fmt.Sprintf(fakeMakefile, 6))
			return nil, nil
		}, "Linux 6.6, but kernel/config is for 6.12"},
		{"lost option", func(e *env) ([]string, []string) {
			return nil, []string{"FAKE_DROP=SMP"}
		}, "CONFIG_SMP=y did not hold"},
		{"lost value", func(e *env) ([]string, []string) {
			return nil, []string{"FAKE_DROP=NR_CPUS"}
		}, "CONFIG_NR_CPUS=64 did not hold"},
		{"option that came back", func(e *env) ([]string, []string) {
			return nil, []string{"FAKE_FORCE=PCI"}
		}, "CONFIG_PCI=n did not hold"},
		{"patch that does not apply", func(e *env) ([]string, []string) {
			e.write(filepath.Join(e.kernel, "patches/0001-x.patch"), "--- a/fake.c\n+++ b/fake.c\n@@ -1 +1 @@\n-no such line\n+x\n")
			return nil, nil
		}, "kernel/patches/0001-x.patch does not apply"},
		{"compile error", func(e *env) ([]string, []string) {
			return nil, []string{"FAKE_FAIL=1"}
		}, "compiling failed, see "},
		{"unwritable output", func(e *env) ([]string, []string) {
			return []string{"-o", filepath.Join(e.tree, "fake.c", "vmlinux")}, nil
		}, "fake.c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			args, vars := tt.setup(e)
			stdout, stderr, err := e.run(args, vars...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Fatalf("build: %v, want exit status 1\n%s", err, stderr)
			}
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, tt.want) {
				t.Errorf("last line %q, want %q in it", last, tt.want)
			}
			if stdout != "" {
				t.Errorf("stdout %q, want none", stdout)
			}
			if left := e.glob("work.*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestFailureNamesLog(t *testing.T) {
	e := newEnv(t)
	_, stderr, err := e.run(nil, "FAKE_FAIL=1")
	if err == nil {
		t.Fatal("build succeeded")
	}
	logs := e.glob("*.log")
	if len(logs) != 1 {
		t.Fatalf("logs: %v, want one", logs)
	}
	if !strings.Contains(stderr, logs[0]) {
		t.Errorf("the log %s is not named in:\n%s", logs[0], stderr)
	}
	if !strings.Contains(stderr, "test -z \"1\"") {
		t.Errorf("the command that failed is not shown:\n%s", stderr)
	}
}

func TestCache(t *testing.T) {
	e := newEnv(t)
	first := e.build()
	second := e.build()
	if !bytes.Equal(first, second) || e.compiled() != 1 {
		t.Fatalf("same input: %d compilations, equal %v; want 1, true", e.compiled(), bytes.Equal(first, second))
	}

	steps := []struct {
		name   string
		change func()
	}{
		{"config", func() { e.write(filepath.Join(e.kernel, "config"), "CONFIG_SMP=y\n") }},
		{"source", func() { e.write(filepath.Join(e.tree, "fake.c"), "int other = 2;\n") }},
		{"patch", func() {
			e.write(filepath.Join(e.kernel, "patches/0001-x.patch"), "--- a/fake.c\n+++ b/fake.c\n@@ -1 +1 @@\n-int other = 2;\n+int patched = 3;\n")
		}},
		{"tsi", func() { e.write(filepath.Join(e.kernel, "tsi/tsi.c"), "int tsi = 4;\n") }},
		{"corrupt entry", func() {
			names := e.glob("*/vmlinux")
			if len(names) == 0 {
				t.Fatal("nothing in the cache")
			}
			for _, name := range names {
				e.write(name, "\x7fELF but not what was stored")
			}
		}},
	}
	last := second
	for i, s := range steps {
		s.change()
		data := e.build()
		if got, want := e.compiled(), i+2; got != want {
			t.Errorf("after a change of %s: %d compilations, want %d", s.name, got, want)
		}
		if same := bytes.Equal(data, last); same != (s.name == "corrupt entry") {
			t.Errorf("after a change of %s: same kernel is %v", s.name, same)
		}
		last = data
	}
	if left := append(e.glob("work.*"), e.glob("*.log")...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Two directories, one from a tarball: same bytes, and no trace of the caller's
// environment.
func TestReproducible(t *testing.T) {
	a, b := newEnv(t), newEnv(t)
	fromTree := a.build()
	fromTar := b.build("KERNEL_SRC="+tarball(t, b.tree, "linux.tar.gz"), "MAKEFLAGS=n", "KCFLAGS=-DX", "LC_ALL=C.UTF-8")
	if !bytes.Equal(fromTree, fromTar) {
		t.Error("two builds of the same source differ")
	}
}

func TestSourceStaysUntouched(t *testing.T) {
	e := newEnv(t)
	e.write(filepath.Join(e.tree, ".config"), "CONFIG_STALE=y\n")
	e.build()
	names, err := filepath.Glob(filepath.Join(e.tree, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 5 {
		t.Errorf("the source tree has %v", names)
	}
	data, err := os.ReadFile(filepath.Join(e.tree, ".config"))
	if err != nil || string(data) != "CONFIG_STALE=y\n" {
		t.Errorf(".config: %q, %v", data, err)
	}
}

func TestConcurrentBuildsCompileOnce(t *testing.T) {
	e := newEnv(t)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			out := filepath.Join(e.kernel, fmt.Sprintf("out%d", i))
			_, stderr, err := e.run([]string{"-o", out})
			if err != nil {
				errs[i] = fmt.Errorf("%w\n%s", err, stderr)
				return
			}
			_, errs[i] = os.Stat(out)
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := e.compiled(); n != 1 {
		t.Errorf("%d compilations, want 1", n)
	}
}

func TestTerminatedBuildLeavesNothing(t *testing.T) {
	e := newEnv(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := e.command(nil, "FAKE_SLEEP="+pidFile)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for deadline := time.Now().Add(time.Minute); pid == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the compilation did not start")
		}
		data, err := os.ReadFile(pidFile)
		if err == nil && bytes.HasSuffix(data, []byte("\n")) {
			if _, err := fmt.Sscan(string(data), &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 143 {
		t.Errorf("build: %v, want exit status 143", err)
	}
	// It was killed; its end, and init's wait for it, may take a moment.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Kill(pid, 0)
		if errors.Is(err, syscall.ESRCH) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the compilation is still there: kill(%d, 0) = %v", pid, err)
			break
		}
	}
	if left := e.glob("work.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	e.build()
}

func TestEqualOutputKeepsItsTime(t *testing.T) {
	e := newEnv(t)
	e.build()
	out := filepath.Join(e.kernel, "..", "bin", "vmlinux")
	old := time.Unix(1000000000, 0)
	if err := os.Chtimes(out, old, old); err != nil {
		t.Fatal(err)
	}
	e.build()
	fi, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if !fi.ModTime().Equal(old) {
		t.Errorf("an equal file was installed again at %v", fi.ModTime())
	}
}
