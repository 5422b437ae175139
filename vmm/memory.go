package vmm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/snapshot"
)

// MemoryFile holds the memory of a snapshot. As clones map it, its contents must
// never change.
type MemoryFile interface {
	Fd() uintptr
	Stat() (os.FileInfo, error)
}

const pageSize = 4096

// Extents are few, so that a clone is mapped with few calls: gaps of zeroes
// between them are at least minGap pages, and more if there would be too many.
const (
	minGap      = 16
	mostExtents = 128
)

// save writes what is not zero, and says where it was.
func (r *ram) save(w io.Writer) ([]snapshot.Extent, error) {
	runs, err := r.used()
	if err != nil {
		return nil, err
	}
	extents := merge(runs, minGap*pageSize)
	for gap := uint64(2 * minGap); len(extents) > mostExtents; gap *= 2 {
		extents = merge(runs, gap*pageSize)
	}
	for _, e := range extents {
		if _, err := w.Write(r.data[e.Offset : e.Offset+e.Length]); err != nil {
			return nil, err
		}
	}
	return extents, nil
}

// merge joins the runs with less than gap bytes between them.
func merge(runs []snapshot.Extent, gap uint64) []snapshot.Extent {
	var out []snapshot.Extent
	for _, run := range runs {
		if n := len(out); n > 0 && run.Offset-out[n-1].Offset-out[n-1].Length < gap {
			out[n-1].Length = run.Offset + run.Length - out[n-1].Offset
			continue
		}
		out = append(out, run)
	}
	return out
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
)

// used lists the runs of pages that are not zero. Pages that were never touched
// are not looked at, which would take memory for them.
func (r *ram) used() ([]snapshot.Extent, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var (
		runs  []snapshot.Extent
		zero  [pageSize]byte
		chunk [64 << 10]byte
	)
	pages := uint64(len(r.data)) / pageSize
	first := hostAddr(r.data) / pageSize
	for page := uint64(0); page < pages; {
		n := min(uint64(len(chunk)/8), pages-page)
		if _, err := f.ReadAt(chunk[:8*n], int64(8*(first+page))); err != nil {
			return nil, fmt.Errorf("pagemap: %w", err)
		}
		for i := range n {
			if binary.LittleEndian.Uint64(chunk[8*i:])&(pagemapPresent|pagemapSwapped) == 0 {
				continue
			}
			offset := (page + i) * pageSize
			if bytes.Equal(r.data[offset:offset+pageSize], zero[:]) {
				continue
			}
			if last := len(runs) - 1; last >= 0 && runs[last].Offset+runs[last].Length == offset {
				runs[last].Length += pageSize
			} else {
				runs = append(runs, snapshot.Extent{Offset: offset, Length: pageSize})
			}
		}
		page += n
	}
	return runs, nil
}

// load maps the extents of a snapshot's memory, copy on write. All else stays
// anonymous memory, which is zero.
func (r *ram) load(m *snapshot.Memory, f MemoryFile) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || uint64(st.Size()) != m.Bytes() {
		return errors.New("the memory file does not have the size that the snapshot says")
	}
	var at uint64
	for _, e := range m.Extents {
		if e.Offset > uint64(len(r.data)) || e.Length > uint64(len(r.data))-e.Offset {
			return errors.New("the snapshot's memory is larger than the machine's")
		}
		if err := r.mapFile(f.Fd(), at, e); err != nil {
			return err
		}
		at += e.Length
	}
	return nil
}

// preload has the host map memory that the guest is about to use, which is
// cheaper than a fault for each page. It is no failure if it cannot.
func (r *ram) preload(list []snapshot.Extent, advice int) {
	for _, e := range list {
		if e.Offset <= uint64(len(r.data)) && e.Length <= uint64(len(r.data))-e.Offset {
			_ = unix.Madvise(r.data[e.Offset:e.Offset+e.Length], advice)
		}
	}
}
