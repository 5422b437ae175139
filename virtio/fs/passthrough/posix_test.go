package passthrough

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPOSIX runs go-fuse's conformance tests on a mount served here.
func TestPOSIX(t *testing.T) {
	for name, test := range posixtest.All {
		switch name {
		case "FcntlFlockLocksFile":
			// It expects a process's POSIX lock to conflict with its own,
			// which no file system does, and upstream does not run it.
			continue
		case "XAttrLarge":
			// It needs more room for attributes than ext4 has, and skips
			// itself there.
			continue
		}
		t.Run(name, func(t *testing.T) {
			_, mnt := mount(t, Options{})
			test(t, mnt)
		})
	}
}
