package vmm

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPagemapWithoutAddresses reads the page map with the privileges that the
// VM process was born with.
func TestPagemapWithoutAddresses(t *testing.T) {
	const frames = 1<<55 - 1
	before := capabilities(t)
	f, err := openPagemap()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if after := capabilities(t); after != before {
		t.Errorf("capabilities %v; had %v", after, before)
	}
	r, err := newRAM(16 * pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	r.data[3*pageSize] = 1
	r.pagemap = f
	touched := 0
	if err := r.pages(func(offset, entry uint64) {
		touched++
		if offset != 3*pageSize || entry&pagemapPresent == 0 {
			t.Errorf("page at %#x: %#x", offset, entry)
		}
		if entry&frames != 0 {
			t.Errorf("page frame %#x is shown", entry&frames)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if touched != 1 {
		t.Errorf("%d pages touched", touched)
	}
}

func capabilities(t *testing.T) (data [2]unix.CapUserData) {
	t.Helper()
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(os.Getpid())}, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data
}
