package main

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest"
)

// entry is a member of the archive. All belong to root and are as old as 1970.
type entry struct {
	name         string // without the leading slash
	mode         uint32 // type and permissions, as in struct stat
	major, minor uint32 // of a device
	content      []byte
}

// entries are the members of the initial file system: the directories the
// agent mounts on, the console the kernel opens for it, and the agent.
func entries(init []byte) []entry {
	var list []entry
	for _, dir := range guest.Directories {
		list = append(list, entry{name: strings.TrimPrefix(dir, "/"), mode: unix.S_IFDIR | 0o755})
	}
	return append(list,
		entry{name: "dev/console", mode: unix.S_IFCHR | 0o600, major: 5, minor: 1},
		// The Go runtime opens it for standard descriptors that are closed,
		// which they are when the console comes up after init was started.
		entry{name: "dev/null", mode: unix.S_IFCHR | 0o666, major: 1, minor: 3},
		entry{name: "init", mode: unix.S_IFREG | 0o755, content: init},
	)
}

// write writes an archive as Documentation/driver-api/early-userspace/
// buffer-format.rst of the kernel has it.
func write(w io.Writer, list []entry) error {
	for i, e := range append(list, entry{name: "TRAILER!!!"}) {
		if err := writeEntry(w, uint32(i+1), e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

const (
	magic      = "070701"
	headerSize = 110
)

func writeEntry(w io.Writer, inode uint32, e entry) error {
	links := uint32(1)
	if e.mode&unix.S_IFMT == unix.S_IFDIR {
		links = 2
	}
	header := []byte(magic)
	for _, field := range []uint32{
		inode,
		e.mode,
		0, 0, // uid, gid
		links,
		0, // mtime
		uint32(len(e.content)),
		0, 0, // device the file is on
		e.major, e.minor,
		uint32(len(e.name) + 1),
		0, // checksum
	} {
		header = fmt.Appendf(header, "%08x", field)
	}
	header = append(header, e.name...)
	header = pad(append(header, 0))
	if _, err := w.Write(header); err != nil {
		return err
	}
	if _, err := w.Write(e.content); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, -len(e.content)&3))
	return err
}

// pad fills up to a multiple of 4 bytes.
func pad(b []byte) []byte {
	return append(b, make([]byte, -len(b)&3)...)
}
