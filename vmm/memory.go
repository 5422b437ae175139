package vmm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

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
	extents := mergeTo(runs, minGap*pageSize, mostExtents)
	for _, e := range extents {
		if _, err := w.Write(r.data[e.Offset : e.Offset+e.Length]); err != nil {
			return nil, err
		}
	}
	return extents, nil
}

// merge joins the runs, which are in order and may overlap, with less than gap
// bytes between them.
func merge(runs []snapshot.Extent, gap uint64) []snapshot.Extent {
	var out []snapshot.Extent
	for _, run := range runs {
		if n := len(out); n > 0 && run.Offset < out[n-1].Offset+out[n-1].Length+gap {
			out[n-1].Length = max(out[n-1].Length, run.Offset+run.Length-out[n-1].Offset)
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
	pagemapFile    = 1 << 61
)

// pages calls visit for every page that was touched, with its offset and its
// entry in the page map.
func (r *ram) pages(visit func(offset, entry uint64)) error {
	f := r.pagemap
	if f == nil {
		var err error
		if f, err = openPagemap(); err != nil {
			return err
		}
		defer f.Close()
	}
	var chunk [64 << 10]byte
	pages := uint64(len(r.data)) / pageSize
	first := hostAddr(r.data) / pageSize
	for page := uint64(0); page < pages; {
		n := min(uint64(len(chunk)/8), pages-page)
		got, err := unix.Preadv(int(f.Fd()), [][]byte{chunk[:8*n]}, int64(8*(first+page)))
		if err == nil && got < int(8*n) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("pagemap: %w", err)
		}
		for i := range n {
			entry := binary.LittleEndian.Uint64(chunk[8*i:])
			if entry&(pagemapPresent|pagemapSwapped) != 0 {
				visit((page+i)*pageSize, entry)
			}
		}
		page += n
	}
	return nil
}

// addPage adds a page to a list in order.
func addPage(list []snapshot.Extent, offset uint64) []snapshot.Extent {
	if last := len(list) - 1; last >= 0 && list[last].Offset+list[last].Length == offset {
		list[last].Length += pageSize
		return list
	}
	return append(list, snapshot.Extent{Offset: offset, Length: pageSize})
}

// used lists the runs of pages that are not zero. Pages that were never touched
// are not looked at, which would take memory for them; but those that are mapped
// from a snapshot have contents before they are touched.
func (r *ram) used() (runs []snapshot.Extent, err error) {
	r.mu.Lock()
	files := slices.Clone(r.files)
	r.mu.Unlock()
	var zero [pageSize]byte
	look := func(list []snapshot.Extent, offset uint64) []snapshot.Extent {
		if bytes.Equal(r.data[offset:offset+pageSize], zero[:]) {
			return list
		}
		return addPage(list, offset)
	}
	var mapped []snapshot.Extent
	for _, f := range files {
		for offset := f.Offset; offset < f.Offset+f.Length; offset += pageSize {
			mapped = look(mapped, offset)
		}
	}
	err = r.pages(func(offset, _ uint64) {
		for len(files) > 0 && files[0].Offset+files[0].Length <= offset {
			files = files[1:]
		}
		if len(files) == 0 || offset < files[0].Offset {
			runs = look(runs, offset)
		}
	})
	runs = append(runs, mapped...)
	slices.SortFunc(runs, func(a, b snapshot.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	return runs, err
}

// Gaps within the working set that are not worth a call of their own.
const (
	writtenGap = 2 * pageSize
	readGap    = 16 * pageSize
)

// working tells what the guest of a clone has touched. Of what it has only read
// the host maps more than was asked for, which shows here.
func (r *ram) working() (w snapshot.WorkingSet, err error) {
	err = r.pages(func(offset, entry uint64) {
		if entry&pagemapFile != 0 {
			w.Read = addPage(w.Read, offset)
		} else {
			w.Written = addPage(w.Written, offset)
		}
	})
	w.Written, w.Read = mergeTo(w.Written, writtenGap, snapshot.MaxExtents), mergeTo(w.Read, readGap, snapshot.MaxExtents)
	return w, err
}

// mergeTo merges to at most so many extents, with larger gaps if it must.
func mergeTo(runs []snapshot.Extent, gap uint64, most int) []snapshot.Extent {
	out := merge(runs, gap)
	for ; len(out) > most; gap *= 2 {
		out = merge(runs, gap)
	}
	return out
}

// preload has the host map what the guest is going to use: what it writes gets
// pages of its own now. Only time is lost if that fails.
func (r *ram) preload(w snapshot.WorkingSet) {
	for _, e := range w.Written {
		_ = unix.Madvise(r.data[e.Offset:e.Offset+e.Length], unix.MADV_POPULATE_WRITE)
	}
	for _, e := range w.Read {
		_ = unix.Madvise(r.data[e.Offset:e.Offset+e.Length], unix.MADV_POPULATE_READ)
	}
}

// loadMemory fills the memory from a snapshot.
func (vm *VM) loadMemory(s *Snapshot) error {
	if s.Copy != nil {
		return vm.ram.read(&s.Machine.Memory, s.Copy)
	}
	return vm.ram.load(&s.Machine.Memory, s.Memory)
}

// read copies the extents of a snapshot's memory.
func (r *ram) read(m *snapshot.Memory, from io.Reader) error {
	for _, e := range m.Extents {
		if e.Offset > uint64(len(r.data)) || e.Length > uint64(len(r.data))-e.Offset {
			return errors.New("the snapshot's memory is larger than the machine's")
		}
		if _, err := io.ReadFull(from, r.data[e.Offset:e.Offset+e.Length]); err != nil {
			return fmt.Errorf("the memory of the snapshot: %w", err)
		}
	}
	return nil
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
		r.files = append(r.files, e)
		at += e.Length
	}
	return nil
}
