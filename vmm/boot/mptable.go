package boot

import (
	"encoding/binary"
	"fmt"
)

// MaxVCPUs is how many processors an MP table can name: the local APIC id
// 0xff is the broadcast, and the IOAPIC has an id too.
const MaxVCPUs = 254

// Entries of the MP configuration table (section 4.3).
const (
	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpIOIntr    = 3
	mpLocalIntr = 4

	mpSpecRevision     = 4
	mpLocalAPICVersion = 0x14
	mpIOAPICVersion    = 0x11
	mpCPUEnabled       = 1 << 0
	mpCPUBootstrap     = 1 << 1

	mpIntr   = 0
	mpNMI    = 1
	mpExtINT = 3

	mpActiveHigh = 1
	mpEdge       = 1 << 2

	mpISABus = 0
	mpAllCPU = 0xff
)

// mpTable makes the MP floating pointer structure, to be put at addr, and the
// configuration table right behind it: cpus processors with APIC ids from 0,
// the IOAPIC, and an edge-triggered, active-high ISA interrupt on each of the
// IOAPIC's pins given.
func mpTable(addr uint32, cpus int, pins []uint8) ([]byte, error) {
	if cpus < 1 || cpus > MaxVCPUs {
		return nil, fmt.Errorf("%d processors: an MP table has 1 to %d", cpus, MaxVCPUs)
	}
	le := binary.LittleEndian
	const floating, header = 16, 44
	ioapic := byte(cpus)

	t := make([]byte, header, header+20*cpus+8*(len(pins)+4))
	entries := 0
	add := func(b ...byte) { t = append(t, b...); entries++ }
	for id := range cpus {
		flags := byte(mpCPUEnabled)
		if id == 0 {
			flags |= mpCPUBootstrap
		}
		e := [20]byte{mpProcessor, byte(id), mpLocalAPICVersion, flags}
		le.PutUint32(e[4:], 0x600) // signature: family 6
		le.PutUint32(e[8:], 0x201) // features: on-chip FPU and APIC
		add(e[:]...)
	}
	add(append([]byte{mpBus, mpISABus}, "ISA   "...)...)
	e := [8]byte{mpIOAPIC, ioapic, mpIOAPICVersion, 1}
	le.PutUint32(e[4:], IOAPICAddr)
	add(e[:]...)
	for _, pin := range pins {
		add(mpIOIntr, mpIntr, mpActiveHigh|mpEdge, 0, mpISABus, pin, ioapic, pin)
	}
	add(mpLocalIntr, mpExtINT, 0, 0, mpISABus, 0, 0, 0)
	add(mpLocalIntr, mpNMI, 0, 0, mpISABus, 0, mpAllCPU, 1)

	copy(t, "PCMP")
	le.PutUint16(t[4:], uint16(len(t)))
	t[6] = mpSpecRevision
	copy(t[8:], "RUNV    ")
	copy(t[16:], "MICROVM     ")
	le.PutUint16(t[34:], uint16(entries))
	le.PutUint32(t[36:], LocalAPICAddr)
	t[7] = checksum(t)

	f := make([]byte, floating, floating+len(t))
	copy(f, "_MP_")
	le.PutUint32(f[4:], addr+floating)
	f[8] = floating / 16
	f[9] = mpSpecRevision
	f[10] = checksum(f)
	return append(f, t...), nil
}

// checksum is the byte that makes the sum of b zero.
func checksum(b []byte) byte {
	var sum byte
	for _, x := range b {
		sum += x
	}
	return -sum
}
