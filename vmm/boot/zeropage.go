package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"runv.dev/runv/internal/guestmem"
)

// MaxCmdline is the longest kernel command line, in bytes: COMMAND_LINE_SIZE
// of x86 without the terminating NUL.
const MaxCmdline = 2047

// Offsets in struct boot_params (Documentation/arch/x86/zero-page.rst) and in
// the setup_header within it.
const (
	bpExtRamdiskImage = 0x0c0
	bpExtRamdiskSize  = 0x0c4
	bpExtCmdlinePtr   = 0x0c8
	bpE820Entries     = 0x1e8
	bpBootFlag        = 0x1fe
	bpHeader          = 0x202
	bpVersion         = 0x206
	bpTypeOfLoader    = 0x210
	bpRamdiskImage    = 0x218
	bpRamdiskSize     = 0x21c
	bpCmdlinePtr      = 0x228
	bpKernelAlignment = 0x230
	bpCmdlineSize     = 0x238
	bpSetupData       = 0x250
	bpE820Table       = 0x2d0

	e820EntrySize = 20
	e820Max       = 128

	loaderUndefined = 0xff
	bootFlag        = 0xaa55
	headerMagic     = 0x53726448 // "HdrS"
	bootProtocol    = 0x020f

	setupRNGSeed    = 9 // SETUP_RNG_SEED
	setupDataHeader = 16
)

type e820Type uint32

const (
	e820RAM      e820Type = 1
	e820Reserved e820Type = 2
)

type e820Entry struct {
	addr, size uint64
	typ        e820Type
}

// e820 is the map of the guest's memory: its regions, without the BIOS area.
func e820(regions []guestmem.Region) []e820Entry {
	m := []e820Entry{
		{0, lowMemEnd, e820RAM},
		{mpTableAddr, biosEnd - mpTableAddr, e820Reserved},
	}
	for _, r := range regions {
		start, end := r.Addr, r.Addr+uint64(len(r.Data))
		if start < highMemStart {
			start = highMemStart
		}
		if start < end {
			m = append(m, e820Entry{start, end - start, e820RAM})
		}
	}
	return m
}

// zeroPage is what writeZeroPage puts into struct boot_params.
type zeroPage struct {
	e820       []e820Entry
	cmdlineLen int
	initrd     uint64
	initrdSize uint64
	setupData  uint64
}

func (z zeroPage) write(mem *guestmem.Memory) error {
	if len(z.e820) > e820Max {
		return fmt.Errorf("%d e820 entries", len(z.e820))
	}
	le := binary.LittleEndian
	p := make([]byte, pageSize)
	p[bpE820Entries] = byte(len(z.e820))
	for i, e := range z.e820 {
		q := p[bpE820Table+i*e820EntrySize:]
		le.PutUint64(q, e.addr)
		le.PutUint64(q[8:], e.size)
		le.PutUint32(q[16:], uint32(e.typ))
	}
	le.PutUint16(p[bpBootFlag:], bootFlag)
	le.PutUint32(p[bpHeader:], headerMagic)
	le.PutUint16(p[bpVersion:], bootProtocol)
	p[bpTypeOfLoader] = loaderUndefined
	le.PutUint32(p[bpKernelAlignment:], 1<<24)
	le.PutUint32(p[bpRamdiskImage:], uint32(z.initrd))
	le.PutUint32(p[bpExtRamdiskImage:], uint32(z.initrd>>32))
	le.PutUint32(p[bpRamdiskSize:], uint32(z.initrdSize))
	le.PutUint32(p[bpExtRamdiskSize:], uint32(z.initrdSize>>32))
	le.PutUint32(p[bpCmdlinePtr:], cmdlineAddr)
	le.PutUint32(p[bpCmdlineSize:], uint32(z.cmdlineLen))
	le.PutUint64(p[bpSetupData:], z.setupData)
	return mem.WriteAt(p, zeroPageAddr)
}

// checkCmdline refuses what the kernel would cut off or misread.
func checkCmdline(s string) error {
	if len(s) > MaxCmdline {
		return fmt.Errorf("kernel command line of %d bytes: at most %d", len(s), MaxCmdline)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return errors.New("kernel command line: only printable ASCII is allowed")
		}
	}
	return nil
}

// writeSetupData puts a seed for the guest's random number generator into the
// list of struct setup_data; the kernel credits and erases it.
func writeSetupData(mem *guestmem.Memory, seed []byte) (uint64, error) {
	if len(seed) == 0 {
		return 0, nil
	}
	if len(seed) > pageSize-setupDataHeader {
		return 0, fmt.Errorf("seed of %d bytes", len(seed))
	}
	p := make([]byte, setupDataHeader, setupDataHeader+len(seed))
	binary.LittleEndian.PutUint32(p[8:], setupRNGSeed)
	binary.LittleEndian.PutUint32(p[12:], uint32(len(seed)))
	return setupDataAddr, mem.WriteAt(append(p, seed...), setupDataAddr)
}
