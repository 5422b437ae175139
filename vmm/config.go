package vmm

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"runv.dev/runv/virtio"
	"runv.dev/runv/vmm/boot"
)

// Config is what a virtual machine is made of.
type Config struct {
	// KVM is the open /dev/kvm. It stays the caller's and is not needed any
	// more once New has returned.
	KVM *os.File

	// Kernel is an uncompressed ELF vmlinux for x86-64, Initrd a cpio archive
	// or nil. Neither is needed any more once New has returned.
	Kernel, Initrd *io.SectionReader

	// Snapshot, if set, is what the machine goes on from. Everything else must
	// describe the machine that was saved; Kernel, Initrd and Cmdline are not
	// used. The memory file is not needed any more once New has returned.
	Snapshot *Snapshot

	// Cmdline is appended to DefaultCmdline and the announcements of the
	// devices, so that it can override both.
	Cmdline string

	// MemoryBytes is the size of the guest's RAM, in bytes: a multiple of
	// 2 MiB. It takes no memory of the host until the guest touches it.
	MemoryBytes uint64

	// VCPUs is the number of processors.
	VCPUs int

	// Devices get the places and interrupts 0, 1, … in this order. They are
	// reset when the VM is closed; closing them is the caller's.
	Devices []virtio.Device

	// Checkpoints says that the machine may be asked for a Checkpoint after
	// New, when neither KVM nor procfs can be opened any more.
	Checkpoints bool

	// Log takes what happens to the VM; required.
	Log *slog.Logger

	// Trace, if set, is called when a stage of the start has been reached.
	// It may be called from several goroutines.
	Trace func(stage string)
}

// DefaultCmdline is how every guest kernel is started:
//
//   - console=hvc0: the log goes to the virtio console; there is no UART.
//   - quiet: writing it out line by line is most of the cost of a boot. Errors
//     still appear, and so does all of a panic.
//   - panic=-1: a kernel that panics resets at once instead of hanging.
//   - reboot=k: a reset is one write to the keyboard controller, which tells
//     it apart from a triple fault.
//   - dummy.numdummies=0: no network device but those that the agent makes.
const DefaultCmdline = "console=hvc0 quiet panic=-1 reboot=k dummy.numdummies=0"

const (
	memoryAlign = 2 << 20
	minMemory   = 16 << 20
	maxMemory   = 1 << 40
)

func (c *Config) validate() error {
	switch {
	case c.KVM == nil:
		return errors.New("no KVM device")
	case c.Kernel == nil && c.Snapshot == nil:
		return errors.New("no kernel")
	case c.Snapshot != nil && c.Snapshot.Machine.MemoryBytes != c.MemoryBytes:
		return fmt.Errorf("%d bytes of memory: the snapshot has %d", c.MemoryBytes, c.Snapshot.Machine.MemoryBytes)
	case c.Log == nil:
		return errors.New("no logger")
	case c.MemoryBytes%memoryAlign != 0 || c.MemoryBytes < minMemory || c.MemoryBytes > maxMemory:
		return fmt.Errorf("%d bytes of memory: want a multiple of 2 MiB from %d MiB to %d GiB",
			c.MemoryBytes, minMemory>>20, maxMemory>>30)
	case c.Snapshot != nil && len(c.Snapshot.Machine.VCPUs) != c.VCPUs:
		return fmt.Errorf("%d vCPUs: the snapshot has %d", c.VCPUs, len(c.Snapshot.Machine.VCPUs))
	case c.VCPUs < 1 || c.VCPUs > boot.MaxVCPUs:
		return fmt.Errorf("%d vCPUs: want 1 to %d", c.VCPUs, boot.MaxVCPUs)
	case len(c.Devices) > maxDevices:
		return fmt.Errorf("%d devices: at most %d", len(c.Devices), maxDevices)
	}
	return nil
}

// trace reports a stage of the start.
func (c *Config) trace(stage string) {
	if c.Trace != nil {
		c.Trace(stage)
	}
}
