package vmm

// mmioHandler is a page of registers on the bus. Offsets are within the page
// and the access does not cross its end; p has 1 to 8 bytes. Methods are
// called on vCPU threads, concurrently, and must not block.
type mmioHandler interface {
	Read(offset uint64, p []byte)
	Write(offset uint64, p []byte)
}

const mmioPage = 4096

// bus dispatches accesses to guest-physical addresses without memory behind
// them. It does not change once vCPUs run.
type bus struct {
	base    uint64        // of the first device, page-aligned
	devices []mmioHandler // one a page
	ioapic  mmioHandler
}

// find returns the handler of all n bytes at addr and the offset in its page.
func (b *bus) find(addr uint64, n int) (h mmioHandler, offset uint64) {
	offset = addr % mmioPage
	if offset+uint64(n) > mmioPage {
		return nil, 0
	}
	page := addr - offset
	if page == ioapicBase {
		return b.ioapic, offset
	}
	if i := (page - b.base) / mmioPage; page >= b.base && i < uint64(len(b.devices)) {
		return b.devices[i], offset
	}
	return nil, 0
}

// read fills p; what is not there reads as all ones, as on a bus that nobody
// drives.
func (b *bus) read(addr uint64, p []byte) {
	if h, off := b.find(addr, len(p)); h != nil {
		h.Read(off, p)
		return
	}
	for i := range p {
		p[i] = 0xff
	}
}

// write stores p; what is not there ignores it.
func (b *bus) write(addr uint64, p []byte) {
	if h, off := b.find(addr, len(p)); h != nil {
		h.Write(off, p)
	}
}
