package hostcheck

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm"
	"runv.dev/runv/vmm/kvm"
)

// device: /dev/kvm is there and may be opened.
func (h host) device() Result {
	const name = "kvm device"
	f, err := h.openDevice()
	if err != nil {
		return result(name, err, "")
	}
	return result(name, f.Close(), "/dev/kvm can be opened")
}

// module: who is behind /dev/kvm.
func (h host) module() Result {
	const name = "kvm module"
	if h.exists("sys/module/kvm_pvm") {
		return result(name, errPVM, "")
	}
	for _, m := range []struct{ module, paging string }{
		{"kvm_amd", "npt"},
		{"kvm_intel", "ept"},
	} {
		if !h.exists("sys/module/" + m.module) {
			continue
		}
		b, err := os.ReadFile(h.path("sys/module/" + m.module + "/parameters/" + m.paging))
		if err == nil && !isTrue(b) {
			return Result{
				Name: name, Status: Warn, Detail: m.module + " without nested paging: slow",
				Advice: fmt.Sprintf("load %s with %s=1", m.module, m.paging),
			}
		}
		return Result{Name: name, Status: OK, Detail: m.module}
	}
	return Result{
		Name: name, Status: Warn, Detail: "neither kvm_amd nor kvm_intel is loaded",
		Advice: "see whether the other checks of KVM succeed",
	}
}

func isTrue(b []byte) bool {
	s := strings.TrimSpace(string(b))
	return s == "Y" || s == "1"
}

// required are the capabilities the virtual machine monitor cannot do without.
var required = []struct {
	cap  kvm.Cap
	name string
}{
	{kvm.CapUserMemory, "USER_MEMORY"},
	{kvm.CapSetTSSAddr, "SET_TSS_ADDR"},
	{kvm.CapSetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"},
	{kvm.CapExtCPUID, "EXT_CPUID"},
	{kvm.CapMPState, "MP_STATE"},
	{kvm.CapIRQRouting, "IRQ_ROUTING"},
	{kvm.CapIRQFD, "IRQFD"},
	{kvm.CapIOEventFD, "IOEVENTFD"},
	{kvm.CapSignalMSI, "SIGNAL_MSI"},
	{kvm.CapEnableCapVM, "ENABLE_CAP_VM"},
	{kvm.CapSplitIRQChip, "SPLIT_IRQCHIP"},
	{kvm.CapImmediateExit, "IMMEDIATE_EXIT"},
}

// capabilities: the API has what is needed.
func (h host) capabilities() Result {
	const name = "kvm capabilities"
	f, err := h.openDevice()
	if err != nil {
		return result(name, err, "")
	}
	sys := kvm.NewSystem(f)
	defer sys.Close()
	v, err := sys.APIVersion()
	if err != nil {
		return result(name, &problem{detail: "/dev/kvm is not KVM: " + err.Error(), advice: "see what /dev/kvm is", err: err}, "")
	}
	if v != kvm.APIVersion {
		return result(name, &problem{
			detail: fmt.Sprintf("KVM API version %d; %d is needed", v, kvm.APIVersion), advice: "use a newer host kernel",
		}, "")
	}
	var missing []string
	for _, c := range required {
		n, err := sys.CheckExtension(c.cap)
		if err != nil {
			return result(name, err, "")
		}
		if n == 0 {
			missing = append(missing, "KVM_CAP_"+c.name)
		}
	}
	if missing != nil {
		return result(name, &problem{
			detail: "missing: " + strings.Join(missing, ", "), advice: "use a newer host kernel",
		}, "")
	}
	vcpus, err := sys.CheckExtension(kvm.CapMaxVCPUs)
	return result(name, err, fmt.Sprintf("API %d, %d of %d needed capabilities, at most %d vCPUs",
		v, len(required), len(required), vcpus))
}

// Limits of the probe. The instructions of the guest take a few milliseconds on
// a processor with virtualization and half a second on an emulated one.
const (
	guestTime = 3 * time.Second
	probeTime = 8 * time.Second // with making and closing the machine
)

// guest: a guest gets through kernel code, at a sensible speed. Detection by
// doing: it also finds hosts no list knows of.
func (h host) guest(ctx context.Context) Result {
	const name = "guest kernel code"
	f, err := h.openDevice()
	if err != nil {
		return result(name, err, "")
	}
	// If the host hangs in a system call, the goroutine and the file are left
	// to it.
	done := make(chan Result, 1)
	go func() {
		defer f.Close()
		took, err := runProbe(ctx, f, guestTime)
		done <- result(name, err, fmt.Sprintf("a guest started, ran and stopped in %v", took.Round(100*time.Microsecond)))
	}()
	select {
	case r := <-done:
		return r
	case <-time.After(probeTime):
		return result(name, &problem{
			detail: "KVM does not come back", advice: "see the kernel log; the host may need a reboot",
		}, "")
	}
}

// probeCode is what the guest executes with paging, at privilege level 0:
//
//	lea rsi, [rip+...]      ; 16-byte aligned, in the zeroed memory
//	lock cmpxchg16b [rsi]   ; some KVMs emulate kernel code, without this
//	mov ecx, 4000000
//	loop: dec ecx; jnz loop ; a second and more if emulated
//	mov al, 0xfe; out 0x64, al
//	jmp $
var probeCode = []byte{
	0x48, 0x8d, 0x35, 0xf9, 0x0f, 0x00, 0x00,
	0xf0, 0x48, 0x0f, 0xc7, 0x0e,
	0xb9, 0x00, 0x09, 0x3d, 0x00,
	0xff, 0xc9, 0x75, 0xfc,
	0xb0, 0xfe, 0xe6, 0x64,
	0xeb, 0xfe,
}

const probeAddr = 0x1000000

// probeKernel wraps probeCode into an ELF file with a page of zeroes behind it.
func probeKernel() *io.SectionReader {
	var b bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: probeAddr, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Off: 120,
		Paddr: probeAddr, Filesz: uint64(len(probeCode)), Memsz: 2 * 4096,
	}
	// Writes to a bytes.Buffer do not fail, nor do these types.
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, p)
	b.Write(probeCode)
	return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len()))
}

// runProbe runs a guest of one vCPU for at most limit.
func runProbe(ctx context.Context, device *os.File, limit time.Duration) (time.Duration, error) {
	start := time.Now()
	vm, err := vmm.New(vmm.Config{
		KVM:         device,
		Kernel:      probeKernel(),
		MemoryBytes: 32 << 20,
		VCPUs:       1,
		Log:         slog.New(slog.DiscardHandler),
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		return 0, &problem{
			detail: "KVM is busy: " + err.Error(), err: err,
			advice: "another hypervisor holds the processor's virtualization: stop it",
		}
	case err != nil:
		return 0, &problem{detail: err.Error(), advice: "see the kernel log", err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	exit, err := vm.Run(ctx)
	switch {
	case err != nil:
		return 0, &problem{detail: err.Error(), advice: "see the kernel log", err: err}
	case exit.Reason == vmm.ExitStopped:
		return 0, &problem{
			detail: fmt.Sprintf("this KVM emulates kernel code: a few million instructions were not done after %v", limit),
			advice: "use a host with kvm_amd or kvm_intel and nested paging",
		}
	case exit.Reason != vmm.ExitReset:
		return 0, &problem{
			detail: "this KVM cannot execute kernel code: " + exit.String(),
			advice: "use a host with kvm_amd or kvm_intel",
		}
	}
	return time.Since(start), nil
}
