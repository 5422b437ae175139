package assets

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	for name, content := range map[string]string{kernel: "the kernel", initrd: "the initrd"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
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
	check := func(name string, r *io.SectionReader, want string) {
		t.Helper()
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	check("kernel", a.Kernel(), "the kernel")
	check("initrd", a.Initrd(), "the initrd")
	if err := a.ReplaceKernel(initrd); err != nil {
		t.Fatal(err)
	}
	check("replaced kernel", a.Kernel(), "the initrd")
	if err := a.ReplaceInitrd(dir); err == nil {
		t.Error("a directory was taken for an initrd")
	}
	if err := a.ReplaceKernel(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing kernel was taken")
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		if _, err := Open(); !errors.Is(err, ErrNoKernel) {
			b.Fatal(err)
		}
	}
}
