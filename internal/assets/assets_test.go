package assets

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenWithout(t *testing.T) {
	if _, err := Open(); !errors.Is(err, ErrNoKernel) {
		t.Errorf("Open() of a binary without a guest: %v; want ErrNoKernel", err)
	}
	if _, err := OpenExecutable(os.DevNull); err == nil {
		t.Error("Open() of what is no ELF file succeeded")
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	kernel, initrd, binary := filepath.Join(dir, "k"), filepath.Join(dir, "i"), filepath.Join(dir, "b")
	long := strings.Repeat("the kernel", 10000)
	for name, content := range map[string]string{kernel: long, initrd: "the initrd"} {
		packed, err := Pack([]byte(content))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, packed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("objcopy", "--add-section", KernelSection+"="+kernel, "--add-section", InitrdSection+"="+initrd, self, binary).CombinedOutput()
	if err != nil {
		t.Fatalf("objcopy (of binutils): %v: %s", err, out)
	}
	a, err := OpenExecutable(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	check := func(name string, open func() (*io.SectionReader, error), want string) {
		t.Helper()
		r, err := open()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	check("kernel", a.Kernel, long)
	check("kernel, again", a.Kernel, long)
	check("initrd", a.Initrd, "the initrd")
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("another kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.ReplaceKernel(plain); err != nil {
		t.Fatal(err)
	}
	check("replaced kernel", a.Kernel, "another kernel")
	if err := a.ReplaceInitrd(dir); err == nil {
		t.Error("a directory was taken for an initrd")
	}
	if err := a.ReplaceKernel(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing kernel was taken")
	}
}

func TestUnpackDamaged(t *testing.T) {
	whole, err := Pack([]byte(strings.Repeat("the kernel", 100)))
	if err != nil {
		t.Fatal(err)
	}
	size := func(n uint64) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), whole[packHeader:]...) }
	for name, section := range map[string][]byte{
		"no header": whole[:packHeader-1], "cut": whole[:len(whole)-1], "nothing": size(0), "too much": size(maxUnpacked + 1),
		"longer than told": size(999), "shorter than told": size(1001),
	} {
		path := filepath.Join(t.TempDir(), "section")
		if err := os.WriteFile(path, section, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if content, err := unpack(f, 0, int64(len(section))); err == nil {
			t.Errorf("%s: %d bytes", name, len(content))
		}
		f.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		if _, err := Open(); !errors.Is(err, ErrNoKernel) {
			b.Fatal(err)
		}
	}
}
