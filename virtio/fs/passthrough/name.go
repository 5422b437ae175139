package passthrough

import (
	"strings"

	"golang.org/x/sys/unix"
)

// nameMax is NAME_MAX: the longest name of a directory entry, in bytes.
const nameMax = 255

// checkName reports whether name is a single path component which a guest may
// have looked up, created or removed. Nothing else ever reaches a system call.
func checkName(name string) error {
	switch {
	case name == "":
		return unix.ENOENT
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	case name == "." || name == "..":
		return unix.EINVAL
	case strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	}
	return nil
}
