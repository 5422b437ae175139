// Package assets finds the guest's kernel and initial RAM disk: sections of the
// running executable, where the build has put them page-aligned, so that they
// can be mapped straight from the file.
package assets

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
)

// Sections of the executable.
const (
	KernelSection = ".runv.kernel" // an uncompressed ELF vmlinux
	InitrdSection = ".runv.initrd" // an uncompressed newc cpio archive
)

// ErrNoKernel says that this executable was built without a guest.
var ErrNoKernel = errors.New("no guest kernel inside this binary: build it with make")

// Assets are an open guest kernel and initrd.
type Assets struct {
	kernel, initrd *io.SectionReader
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
		to   **io.SectionReader
	}{{KernelSection, &a.kernel}, {InitrdSection, &a.initrd}} {
		s := e.Section(section.name)
		if s == nil || s.Type == elf.SHT_NOBITS || s.Size == 0 {
			return ErrNoKernel
		}
		*section.to = io.NewSectionReader(f, int64(s.Offset), int64(s.FileSize))
	}
	return nil
}

// ReplaceKernel uses the file at path instead of the kernel inside.
func (a *Assets) ReplaceKernel(path string) error { return a.replace(&a.kernel, path) }

// ReplaceInitrd uses the file at path instead of the initrd inside.
func (a *Assets) ReplaceInitrd(path string) error { return a.replace(&a.initrd, path) }

func (a *Assets) replace(to **io.SectionReader, path string) error {
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
	*to = io.NewSectionReader(f, 0, st.Size())
	a.files = append(a.files, f)
	return nil
}

// Kernel is the guest kernel. Its Outer method leads to the file and offset.
func (a *Assets) Kernel() *io.SectionReader { return a.kernel }

// Initrd is the initial RAM disk.
func (a *Assets) Initrd() *io.SectionReader { return a.initrd }

// Close closes the files; mappings of them stay.
func (a *Assets) Close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
