package main

import (
	"fmt"
	"io"
	"path"
)

// cpioWriter writes an archive in the kernel's initramfs format, "newc".
type cpioWriter struct {
	w    io.Writer
	ino  int
	dirs map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{"/": true, ".": true}}
}

// file adds a regular file and the directories above it.
func (c *cpioWriter) file(name string, mode uint32, data []byte) {
	c.dir(path.Dir(name))
	c.entry(name, 0o100000|mode, 1, data)
}

func (c *cpioWriter) dir(name string) {
	if c.dirs[name] {
		return
	}
	c.dir(path.Dir(name))
	c.dirs[name] = true
	c.entry(name, 0o040755, 2, nil)
}

func (c *cpioWriter) close() error {
	c.entry("/TRAILER!!!", 0, 1, nil)
	return c.err
}

func (c *cpioWriter) entry(name string, mode uint32, links int, data []byte) {
	if c.err != nil {
		return
	}
	name = name[1:] // archive names are relative
	c.ino++
	fields := []int{c.ino, int(mode), 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	head := "070701"
	for _, f := range fields {
		head += fmt.Sprintf("%08x", f)
	}
	head += name + "\x00"
	for _, part := range [][]byte{[]byte(head), data} {
		if c.err == nil {
			_, c.err = c.w.Write(part)
		}
		if pad := -len(part) & 3; c.err == nil && pad > 0 {
			_, c.err = c.w.Write(make([]byte, pad))
		}
	}
}
