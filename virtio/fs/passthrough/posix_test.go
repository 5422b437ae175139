package passthrough

import (
	"testing"

	"runv.dev/runv/virtio/fs/fstest"
)

// TestPOSIX runs the conformance tests on a mount served here.
func TestPOSIX(t *testing.T) {
	fstest.UseLargeXattrs(t)
	fstest.POSIX(t, func(t *testing.T) string {
		_, mnt := mount(t, Options{})
		return mnt
	})
}
