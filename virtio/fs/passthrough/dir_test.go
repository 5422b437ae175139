package passthrough

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// reply is what one request lists from an offset on.
func (c *client) reply(fh, from uint64, size uint32, plus bool) []fuse.DirEntry {
	c.t.Helper()
	in := fuse.ReadIn{InHeader: c.head(1), Fh: fh, Offset: from, Size: size}
	out := fuse.NewDirEntryList(make([]byte, size), from)
	call := c.ReadDir
	if plus {
		call = c.ReadDirPlus
	}
	if st := call(nil, &in, out); st != fuse.OK {
		c.t.Fatalf("at %d: %v", from, st)
	}
	list, err := fuse.ParseDirEntries(out.Bytes())
	if plus {
		list, _, err = fuse.ParseDirLookupEntries(out.Bytes())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}

// list is what is listed from an offset to the end.
func (c *client) list(fh, from uint64, size uint32, plus bool) (list []fuse.DirEntry) {
	c.t.Helper()
	for {
		more := c.reply(fh, from, size, plus)
		if len(more) == 0 {
			return list
		}
		list = append(list, more...)
		from = more[len(more)-1].Off
	}
}

func openRoot(t *testing.T, c *client) uint64 {
	t.Helper()
	var out fuse.OpenOut
	if st := c.OpenDir(nil, &fuse.OpenIn{InHeader: c.head(1)}, &out); st != fuse.OK {
		t.Fatal(st)
	}
	t.Cleanup(func() { c.ReleaseDir(&fuse.ReleaseIn{InHeader: c.head(1), Fh: out.Fh}) })
	return out.Fh
}

// TestListWithoutSeeking: what has been listed is not asked of the directory
// again when the client goes back to the middle of it.
func TestListWithoutSeeking(t *testing.T) {
	for _, plus := range []bool{false, true} {
		c := newClient(t, Options{})
		for i := range 30 {
			c.put(fmt.Sprint("file", i), "")
		}
		fh := openRoot(t, c)
		first := c.reply(fh, 0, 4096, plus)
		// Another directory, at its end, stands for one that seeks badly.
		other, err := os.Open(t.TempDir())
		must(t, err)
		defer other.Close()
		_, err = other.ReadDir(-1)
		must(t, err)
		must(t, unix.Dup3(int(other.Fd()), c.handles.byID[fh].fd, unix.O_CLOEXEC))
		want := first[5:]
		got := c.list(fh, first[4].Off, 1024, plus)
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("plus %v: %v; want %v and more", plus, got, want)
		}
	}
}

// TestListAnywhere: from whatever entry the client goes on, and however much
// other directories have read ahead.
func TestListAnywhere(t *testing.T) {
	for _, budget := range []int64{0, maxAhead} {
		for _, plus := range []bool{false, true} {
			c := newClient(t, Options{})
			for i := range 150 {
				c.put(fmt.Sprintf("%0*d", 1+i%40, i), "")
			}
			names, err := os.ReadDir(c.dir)
			must(t, err)
			c.ahead.Store(budget)
			fh := openRoot(t, c)
			all := c.list(fh, 0, 4096, plus)
			if len(all) != len(names)+2 {
				t.Fatalf("%d entries; want %d", len(all), len(names)+2)
			}
			for range 50 {
				i := rand.IntN(len(all))
				got := c.list(fh, all[i].Off, uint32(1024+rand.IntN(8192)), plus)
				if len(got) != len(all)-i-1 || len(got) > 0 && got[0].Name != all[i+1].Name {
					t.Fatalf("%d entries after the one with number %d; want %d", len(got), i, len(all)-i-1)
				}
			}
			c.ReleaseDir(&fuse.ReleaseIn{InHeader: c.head(1), Fh: fh})
			if got := c.ahead.Load(); got != budget {
				t.Errorf("%d bytes are counted after the release; want %d", got, budget)
			}
		}
	}
}
