// Package assets finds the guest's kernel and initial RAM disk: sections of the
// running executable, compressed, which `make` adds to it.
package assets

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
)

// Sections of the executable, as Pack makes them.
const (
	KernelSection = ".runv.kernel" // an ELF vmlinux
	InitrdSection = ".runv.initrd" // a newc cpio archive
)

// ErrNoKernel says that this executable was built without a guest.
var ErrNoKernel = errors.New("no guest kernel inside this binary: build it with make")

// Assets are an open guest kernel and initrd.
type Assets struct {
	kernel, initrd part
	files          []*os.File
}

// Open opens what the running executable has inside.
func Open() (*Assets, error) { return OpenExecutable("/proc/self/exe") }

// OpenExecutable opens what the executable at path has inside.
func OpenExecutable(path string) (*Assets, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &Assets{files: []*os.File{f}}
	if err := a.find(f); err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

func (a *Assets) find(f *os.File) error {
	e, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	for _, section := range []struct {
		name string
		to   *part
	}{{KernelSection, &a.kernel}, {InitrdSection, &a.initrd}} {
		s := e.Section(section.name)
		if s == nil || s.Type == elf.SHT_NOBITS || s.Size == 0 {
			return ErrNoKernel
		}
		*section.to = part{file: f, offset: int64(s.Offset), size: int64(s.FileSize), packed: true}
	}
	return nil
}

// ReplaceKernel uses the file at path, an uncompressed ELF vmlinux, instead of
// the kernel inside.
func (a *Assets) ReplaceKernel(path string) error { return a.replace(&a.kernel, path) }

// ReplaceInitrd uses the file at path, which is loaded as it is, instead of the
// initrd inside.
func (a *Assets) ReplaceInitrd(path string) error { return a.replace(&a.initrd, path) }

func (a *Assets) replace(to *part, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return err
	}
	a.files = append(a.files, f)
	err = to.close()
	*to = part{file: f, size: st.Size()}
	return err
}

// Kernel is the guest kernel, until Close.
func (a *Assets) Kernel() (*io.SectionReader, error) { return a.kernel.reader() }

// Initrd is the initial RAM disk, until Close.
func (a *Assets) Initrd() (*io.SectionReader, error) { return a.initrd.reader() }

// Close closes the files and releases the memory of what was read.
func (a *Assets) Close() error {
	errs := []error{a.kernel.close(), a.initrd.close()}
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
