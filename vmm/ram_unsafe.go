package vmm

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/guestmem"
	"runv.dev/runv/vmm/boot"
	"runv.dev/runv/vmm/snapshot"
)

// ram is the guest's memory in this process: one private, lazily backed
// mapping, with inaccessible pages before and behind it.
type ram struct {
	mem  *guestmem.Memory
	data []byte // all of it

	pagemap *os.File // of this process; nil: opened when needed

	mu    sync.Mutex
	files []snapshot.Extent // what is mapped from a snapshot's memory, in order
}

// newRAM maps size bytes, a multiple of 2 MiB. The start is aligned to 2 MiB
// as the guest-physical addresses are, so that huge pages can back it.
func newRAM(size uint64) (*ram, error) {
	total := uintptr(size) + 2*memoryAlign
	base, err := unix.MmapPtr(-1, 0, nil, total, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap guest memory", err)
	}
	unmap := func() { _ = unix.MunmapPtr(base, total) }
	// At least one page of guard stays on either side.
	start := memoryAlign - uintptr(base)%memoryAlign
	data := unsafe.Slice((*byte)(unsafe.Add(base, start)), size)
	if err := unix.Mprotect(data, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		unmap()
		return nil, os.NewSyscallError("mprotect guest memory", err)
	}
	advise(data)

	low := min(size, boot.GapStart)
	regions := []guestmem.Region{{Addr: 0, Data: data[:low:low]}}
	if size > low {
		regions = append(regions, guestmem.Region{Addr: boot.GapEnd, Data: data[low:]})
	}
	mem, err := guestmem.New(regions...)
	if err != nil {
		unmap()
		return nil, err
	}
	r := &ram{mem: mem, data: data}
	mem.OnDiscard(func(b []byte) error {
		return r.discard(snapshot.Extent{Offset: hostAddr(b) - hostAddr(data), Length: uint64(len(b))})
	})
	return r, nil
}

// release gives the memory back to the host. The addresses stay valid and read
// as zero: a device whose Reset gave up waiting for a system call may still
// use a buffer, and must not fault then.
func (r *ram) release() error {
	return os.NewSyscallError("madvise guest memory", unix.Madvise(r.data, unix.MADV_DONTNEED))
}

// mapFile maps part of a file over the memory. The pages belong to all who map
// it until they are written.
func (r *ram) mapFile(fd uintptr, at uint64, e snapshot.Extent) error {
	_, err := unix.MmapPtr(int(fd), int64(at), unsafe.Pointer(&r.data[e.Offset]), uintptr(e.Length),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err != nil {
		return os.NewSyscallError("mmap the memory of a snapshot", err)
	}
	_ = unix.Madvise(r.data[e.Offset:e.Offset+e.Length], unix.MADV_DONTDUMP)
	return nil
}

// mapAnonymous maps zeroes over the memory, as it was before mapFile.
func (r *ram) mapAnonymous(e snapshot.Extent) error {
	_, err := unix.MmapPtr(-1, 0, unsafe.Pointer(&r.data[e.Offset]), uintptr(e.Length),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err != nil {
		return os.NewSyscallError("mmap guest memory", err)
	}
	advise(r.data[e.Offset : e.Offset+e.Length])
	return nil
}

// advise says how anonymous memory is used. Nothing of it is a matter of
// correctness: old kernels may refuse.
func advise(b []byte) {
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
}

// hostAddr is where b begins in this process.
func hostAddr(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
