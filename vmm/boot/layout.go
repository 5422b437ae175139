// Package boot puts a Linux kernel into guest memory so that a vCPU can start
// it: the 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot
// Protocol") with an uncompressed ELF vmlinux, and an MP table (MultiProcessor
// Specification 1.4) by which the kernel finds processors and the IOAPIC
// without ACPI.
package boot

// Guest-physical addresses. The conventional memory below 640 KiB holds what
// the kernel reads early; it copies or reserves all of it.
const (
	gdtAddr       = 0x500
	zeroPageAddr  = 0x7000
	stackTop      = 0x8ff0
	pml4Addr      = 0x9000
	pdptAddr      = 0xa000
	pdAddr        = 0xb000
	setupDataAddr = 0xc000
	cmdlineAddr   = 0x20000

	// lowMemEnd is where conventional memory ends and the 1 KiB that Linux
	// takes for the extended BIOS data area begins.
	lowMemEnd = 0x9fc00

	// mpTableAddr is in the BIOS area, one of the places where the kernel
	// looks for the MP floating pointer structure.
	mpTableAddr = 0xf0000
	biosEnd     = 0x100000

	// highMemStart is the lowest address a kernel may be loaded at.
	highMemStart = 0x100000

	// identityEnd is how far the initial page tables reach. The kernel has to
	// be below; it maps the rest itself.
	identityEnd = 1 << 30

	// GapStart to GapEnd never is RAM: devices, IOAPIC and local APICs.
	GapStart = 3 << 30
	GapEnd   = 4 << 30

	// IOAPICAddr and LocalAPICAddr are where the MP table says they are.
	IOAPICAddr    = 0xfec00000
	LocalAPICAddr = 0xfee00000
)

const pageSize = 4096

// Selectors that the boot protocol asks for, and their descriptors.
const (
	CodeSelector = 0x10 // __BOOT_CS
	DataSelector = 0x18 // __BOOT_DS
)

// gdt has a flat 64-bit code segment and a flat data segment.
var gdt = [4]uint64{
	CodeSelector / 8: 0x00af9b000000ffff,
	DataSelector / 8: 0x00cf93000000ffff,
}

// Entry is the state in which the first vCPU starts the kernel: long mode,
// interrupts off, segments as in the GDT.
type Entry struct {
	RIP, RSP uint64
	RSI      uint64 // the zero page
	CR3      uint64
	GDTBase  uint64
	GDTLimit uint16
}
