package template

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/kvm"
	"runv.dev/runv/vmm/snapshot"
)

// made is a Maker of a template with the size of memory file n pages.
func made(n int) Maker {
	return func(memory *os.File) (*snapshot.Machine, error) {
		if _, err := memory.Write(bytes.Repeat([]byte{1}, n*4096)); err != nil {
			return nil, err
		}
		return &snapshot.Machine{
			MemoryBytes: 64 << 20,
			VCPUs:       make([]kvm.VCPUState, 1),
			Memory:      snapshot.Memory{Extents: []snapshot.Extent{{Offset: 0, Length: uint64(n) * 4096}}},
		}, nil
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s := NewStore(filepath.Join(t.TempDir(), "new", "templates"))
	t.Cleanup(func() {
		if _, err := s.Prune(true); err != nil {
			t.Error(err)
		}
	})
	return s
}

func key(t *testing.T, memory uint64) Key {
	t.Helper()
	k, err := Shape{MemoryBytes: memory, VCPUs: 1}.MakeKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	shapes := map[string]Shape{
		"plain":  {MemoryBytes: 1 << 30, VCPUs: 1},
		"memory": {MemoryBytes: 2 << 30, VCPUs: 1},
		"vcpus":  {MemoryBytes: 1 << 30, VCPUs: 2},
		"kernel": {MemoryBytes: 1 << 30, VCPUs: 1, Kernel: file},
		"initrd": {MemoryBytes: 1 << 30, VCPUs: 1, Initrd: file},
	}
	keys := make(map[string]string)
	for name, shape := range shapes {
		k, err := shape.MakeKey()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := shape.MakeKey(); err != nil || again.String() != k.String() {
			t.Errorf("%s: another key the second time: %v", name, err)
		}
		if other, taken := keys[k.String()]; taken {
			t.Errorf("%s and %s have the same key", name, other)
		}
		keys[k.String()] = name
	}
	if err := os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := shapes["kernel"].MakeKey(); err != nil || keys[k.String()] != "" {
		t.Errorf("the same key for another kernel: %v", err)
	}
	if _, err := (Shape{Kernel: file + "-missing"}).MakeKey(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kernel that is not there: %v", err)
	}
}

func TestBuildAndOpen(t *testing.T) {
	s, k := newStore(t), key(t, 1<<30)
	if _, err := s.Open(k); !errors.Is(err, ErrNone) {
		t.Errorf("Open of an empty store: %v", err)
	}
	built, err := s.Build(k, BuildOptions{Make: made(3)})
	if err != nil || !built {
		t.Fatalf("Build = %v, %v", built, err)
	}
	tmpl, err := s.Open(k)
	if err != nil {
		t.Fatal(err)
	}
	defer tmpl.Close()
	b := make([]byte, 3*4096)
	if n, err := tmpl.memory.ReadAt(b, 0); n != len(b) || b[n-1] != 1 {
		t.Errorf("memory: %d bytes, %v", n, err)
	}
	for _, replace := range []bool{false, true} { // it is new
		built, err = s.Build(k, BuildOptions{Replace: replace, Make: func(*os.File) (*snapshot.Machine, error) {
			return nil, errors.New("built again")
		}})
		if err != nil || built {
			t.Errorf("second Build (replace %v) = %v, %v", replace, built, err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(s.path, k.String()+stateSuffix), old, old); err != nil {
		t.Fatal(err)
	}
	if built, err = s.Build(k, BuildOptions{Replace: true, Make: made(1)}); err != nil || !built {
		t.Errorf("Build of a replacement = %v, %v", built, err)
	}
	if _, err := tmpl.memory.ReadAt(b, 0); err != nil {
		t.Errorf("the old one was changed under who has it open: %v", err)
	}
}

// TestConcurrent: of many, one builds, and the others find it there.
func TestConcurrent(t *testing.T) {
	s, k := newStore(t), key(t, 1<<30)
	var wg sync.WaitGroup
	var mu sync.Mutex
	builds := 0
	for range 8 {
		wg.Go(func() {
			built, err := s.Build(k, BuildOptions{Make: made(1), Wait: true})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if built {
				builds++
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("%d builds", builds)
	}
	_, err := s.Build(key(t, 2<<30), BuildOptions{Make: func(*os.File) (*snapshot.Machine, error) {
		_, err := s.Build(k, BuildOptions{Make: made(1)})
		return nil, err
	}})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("Build during a build: %v", err)
	}
}

func TestFailed(t *testing.T) {
	s, k := newStore(t), key(t, 1<<30)
	broken := errors.New("the kernel panicked")
	if _, err := s.Build(k, BuildOptions{Make: func(*os.File) (*snapshot.Machine, error) { return nil, broken }}); !errors.Is(err, broken) {
		t.Errorf("Build: %v", err)
	}
	if err := s.Failed(k); err == nil || !strings.Contains(err.Error(), "the kernel panicked") {
		t.Errorf("Failed: %v", err)
	}
	if files, _ := filepath.Glob(s.path + "/*" + memorySuffix); len(files) != 0 {
		t.Errorf("left behind: %q", files)
	}
	if err := s.Failed(key(t, 2<<30)); err != nil {
		t.Errorf("Failed of another template: %v", err)
	}
	if built, err := s.Build(k, BuildOptions{Make: made(1)}); err != nil || !built {
		t.Errorf("Build = %v, %v", built, err)
	}
	if err := s.Failed(k); err != nil {
		t.Errorf("Failed after a success: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, s *Store, state, memory string) error
		want string
	}{
		{"directory of others", func(_ *testing.T, s *Store, _, _ string) error { return os.Chmod(s.path, 0o777) }, "others have access"},
		{"state of others", func(_ *testing.T, _ *Store, state, _ string) error { return os.Chmod(state, 0o640) }, "others have access"},
		{"link", func(_ *testing.T, _ *Store, state, _ string) error {
			return errors.Join(os.Rename(state, state+"x"), os.Symlink(state+"x", state))
		}, "too many levels"},
		{"fifo", func(_ *testing.T, _ *Store, state, _ string) error {
			return errors.Join(os.Remove(state), unix.Mkfifo(state, 0o600))
		}, "not a regular file"},
		{"huge state", func(_ *testing.T, _ *Store, state, _ string) error { return os.Truncate(state, 1<<40) }, "bytes"},
		{"another's state", func(t *testing.T, s *Store, state, _ string) error {
			other := key(t, 2<<30)
			if _, err := s.Build(other, BuildOptions{Make: made(1)}); err != nil {
				return err
			}
			return os.Rename(filepath.Join(s.path, other.String()+stateSuffix), state)
		}, "made of something else"},
		{"memory replaced", func(_ *testing.T, _ *Store, _, memory string) error {
			f, err := os.Open(memory)
			if err != nil {
				return err
			}
			defer f.Close()
			_ = setImmutable(f, false)
			return errors.Join(os.Remove(memory), os.WriteFile(memory, bytes.Repeat([]byte{1}, 4096), 0o400))
		}, "has changed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, k := newStore(t), key(t, 1<<30)
			if _, err := s.Build(k, BuildOptions{Make: made(1)}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(s.path, 0o700) })
			memory, err := filepath.Glob(s.path + "/*" + memorySuffix)
			if err != nil || len(memory) != 1 {
				t.Fatal(memory, err)
			}
			if err := tc.do(t, s, filepath.Join(s.path, k.String()+stateSuffix), memory[0]); err != nil {
				t.Fatal(err)
			}
			if tmpl, err := s.Open(k); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Open = %v, %v; want %q", tmpl, err, tc.want)
			}
		})
	}
}

// TestBounds: the longest unused go when there are too many.
func TestBounds(t *testing.T) {
	s := newStore(t)
	for i := range maxTemplates + 3 {
		k := key(t, uint64(i+1)<<30)
		if _, err := s.Build(k, BuildOptions{Make: made(1)}); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(time.Duration(i-100) * time.Hour)
		if err := os.Chtimes(filepath.Join(s.path, k.String()+stateSuffix), used, used); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != maxTemplates {
		t.Fatalf("%d templates, %v", len(list), err)
	}
	for i, info := range list {
		if want := key(t, uint64(maxTemplates+3-i)<<30).String(); info.Key != want || info.Problem != "" {
			t.Errorf("template %d is %s, %q; want %s", i, info.Key, info.Problem, want)
		}
	}
	if files, _ := filepath.Glob(s.path + "/*" + memorySuffix); len(files) != maxTemplates {
		t.Errorf("%d memory files", len(files))
	}
}

func TestOutdated(t *testing.T) {
	current := key(t, 1<<30).text
	for _, tc := range []struct {
		text, problem string
		foreign       bool
	}{
		{current, "", false},
		{strings.Replace(current, "boot ", "boot 0", 1), "made before the host was booted", false},
		{strings.Replace(current, "program ", "program 0", 1), "made by another runv", true},
		{strings.Replace(current, fmt.Sprint("memory ", 1<<30), "memory 4096", 1), "", false},
	} {
		if problem, foreign := outdated(tc.text); problem != tc.problem || foreign != tc.foreign {
			t.Errorf("outdated(%q) = %q, %v", tc.text, problem, foreign)
		}
	}
}
