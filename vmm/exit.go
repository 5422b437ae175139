package vmm

import (
	"fmt"

	"runv.dev/runv/vmm/kvm"
)

// ExitReason is why a virtual machine has ended.
type ExitReason int

// Reasons.
const (
	// ExitStopped: the context of Run ended, or Close was called.
	ExitStopped ExitReason = iota
	// ExitReset: the guest reset the machine. This is how a kernel reboots,
	// and with panic=-1 how it dies.
	ExitReset
	// ExitShutdown: a triple fault.
	ExitShutdown
	// ExitSystemEvent: the guest asked the hypervisor to power off or reset.
	ExitSystemEvent
	// ExitFailEntry: the processor refused the guest's state.
	ExitFailEntry
	// ExitInternalError: KVM could not go on with the guest.
	ExitInternalError
	// ExitHostError: the host failed; Run returns the error.
	ExitHostError
)

func (r ExitReason) String() string {
	switch r {
	case ExitStopped:
		return "stopped"
	case ExitReset:
		return "reset by the guest"
	case ExitShutdown:
		return "triple fault in the guest"
	case ExitSystemEvent:
		return "system event"
	case ExitFailEntry:
		return "entry into the guest failed"
	case ExitInternalError:
		return "KVM internal error"
	case ExitHostError:
		return "host error"
	}
	return fmt.Sprintf("ExitReason(%d)", int(r))
}

// Exit tells how a virtual machine ended.
type Exit struct {
	Reason ExitReason
	VCPU   int    // that ended it; -1 if none did
	Detail string // for the log; may be empty
}

func (e Exit) String() string {
	if e.Detail == "" {
		return e.Reason.String()
	}
	return e.Reason.String() + ": " + e.Detail
}

// exitOf turns a KVM exit that ends the machine into an Exit.
func exitOf(v *kvm.VCPU, id int) Exit {
	e := Exit{VCPU: id}
	switch r := v.ExitReason(); r {
	case kvm.ExitShutdown:
		e.Reason = ExitShutdown
	case kvm.ExitSystemEvent:
		e.Reason = ExitSystemEvent
		switch t := v.SystemEvent(); t {
		case kvm.SystemEventShutdown:
			e.Detail = "shutdown"
		case kvm.SystemEventReset:
			e.Detail = "reset"
		case kvm.SystemEventCrash:
			e.Detail = "crash"
		default:
			e.Detail = fmt.Sprintf("type %d", t)
		}
	case kvm.ExitFailEntry:
		reason, cpu := v.FailEntry()
		e.Reason = ExitFailEntry
		e.Detail = fmt.Sprintf("hardware reason %#x on CPU %d", reason, cpu)
	case kvm.ExitInternalError:
		sub, data := v.InternalError()
		e.Reason = ExitInternalError
		e.Detail = fmt.Sprintf("suberror %d, data %#x", sub, data)
		if regs, err := v.Regs(); err == nil {
			e.Detail += fmt.Sprintf(", rip %#x", regs.RIP)
		}
	case kvm.ExitMemoryFault:
		e.Reason = ExitInternalError
		e.Detail = fmt.Sprintf("memory fault at %#x", v.MemoryFault())
	default:
		e.Reason = ExitInternalError
		e.Detail = fmt.Sprintf("unexpected exit %d", r)
	}
	return e
}
