package vmm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/snapshot"
)

// minRemap is the least that is worth a mapping of its own. A guest that reports
// single pages could else have as many mappings made as the kernel lets a
// process have, and Linux reports blocks of 2 MiB or more.
const minRemap = 64 << 10

// discard gives the host back the whole pages of a part of the memory. What was
// mapped from a snapshot is replaced, as its bytes would come back otherwise; of
// that, pieces below minRemap stay. The addresses, and with them KVM's memory
// slots, stay what they are.
func (r *ram) discard(e snapshot.Extent) error {
	if e.Offset > uint64(len(r.data)) || e.Length > uint64(len(r.data))-e.Offset {
		return errors.New("discard: not memory of the guest")
	}
	end := (e.Offset + e.Length) &^ (pageSize - 1)
	start := (e.Offset + pageSize - 1) &^ (pageSize - 1)
	if start >= end {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var files []snapshot.Extent
	at := start
	for _, f := range r.files {
		low, high := max(f.Offset, start), min(f.Offset+f.Length, end)
		if low >= high {
			files = append(files, f)
			continue
		}
		if err := r.forget(at, low); err != nil {
			return err
		}
		at = high
		if high-low < minRemap {
			files = append(files, f)
			continue
		}
		if err := r.mapAnonymous(snapshot.Extent{Offset: low, Length: high - low}); err != nil {
			return err
		}
		if f.Offset < low {
			files = append(files, snapshot.Extent{Offset: f.Offset, Length: low - f.Offset})
		}
		if rest := f.Offset + f.Length - high; rest > 0 {
			files = append(files, snapshot.Extent{Offset: high, Length: rest})
		}
	}
	r.files = files
	return r.forget(at, end)
}

// forget drops anonymous memory, which is zero then.
func (r *ram) forget(start, end uint64) error {
	if start >= end {
		return nil
	}
	return os.NewSyscallError("madvise guest memory", unix.Madvise(r.data[start:end], unix.MADV_DONTNEED))
}
