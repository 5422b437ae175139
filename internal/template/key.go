// Package template keeps prepared virtual machines: snapshots of guests whose
// agent waits for a container. A container starts as a clone of one.
//
// A template is a cache. Its key says everything that shaped it, so that one
// that does not fit is never found; what is found is checked before it is used;
// and whoever finds none boots.
package template

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/snapshot"
)

// Shape is what makes two guests the same, besides the program that is running
// and the boot of the host: the processor, the kernel and the rates of the
// clocks may change only with these.
type Shape struct {
	MemoryBytes uint64
	VCPUs       int
	// Kernel and Initrd replace those inside of this program; empty otherwise.
	Kernel, Initrd string
}

// Key names a template.
type Key struct {
	text string // a line for each thing that matters
}

// MakeKey has the key of the templates that this program makes of a shape.
func (s Shape) MakeKey() (Key, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Key{}, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "format %d\nboot %s\nmemory %d\nvcpus %d\n",
		snapshot.Version, strings.TrimSpace(string(boot)), s.MemoryBytes, s.VCPUs)
	for _, file := range []struct{ what, path string }{
		{"program", "/proc/self/exe"}, {"kernel", s.Kernel}, {"initrd", s.Initrd},
	} {
		if file.path == "" {
			continue
		}
		id, err := identify(file.path)
		if err != nil {
			return Key{}, err
		}
		fmt.Fprintf(&b, "%s %s\n", file.what, id)
	}
	return Key{text: b.String()}, nil
}

// identify says which file is at a path and that it is unchanged: nothing can
// set the time of the last change.
func identify(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return identity(&st), nil
}

func identity(st *unix.Stat_t) string {
	return fmt.Sprintf("device %d inode %d size %d modified %d changed %d",
		st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// String is the name of the template's files.
func (k Key) String() string {
	sum := sha256.Sum256([]byte(k.text))
	return hex.EncodeToString(sum[:keyBytes])
}

const keyBytes = 12
