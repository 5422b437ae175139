package vmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"testing"
)

// The guests of these tests are a few instructions in an ELF file, started by
// the same path as a kernel.

const guestEntry = 0x1000000

// tinyKernel makes an ELF kernel of machine code.
func tinyKernel(t testing.TB, code []byte) *io.SectionReader {
	t.Helper()
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: guestEntry, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Off: 120, Paddr: guestEntry, Filesz: uint64(len(code)), Memsz: uint64(len(code)) + 4096,
	}
	var b bytes.Buffer
	for _, v := range []any{h, p} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(code)
	return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len()))
}

// openKVM opens /dev/kvm: one of any kind runs these guests. Where there is
// none the tests have to be repeated on the test host, which always has one.
func openKVM(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		if os.Getenv("RUNV_IN_TEST_HOST") != "" {
			t.Fatal(err)
		}
		t.Skipf("no KVM here; runs on the test host: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func tinyConfig(t testing.TB, vcpus int, code ...byte) Config {
	t.Helper()
	return Config{
		KVM:         openKVM(t),
		Kernel:      tinyKernel(t, code),
		MemoryBytes: 64 << 20,
		VCPUs:       vcpus,
		Log:         slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}
