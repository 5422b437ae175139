package vmm

import "runv.dev/runv/vmm/kvm"

// I/O ports that answer. All others read as all ones and ignore writes, the
// interrupt controllers (0x20, 0xa0) and timers (0x40) among them: that is how
// a kernel finds out that a machine has none.
const (
	portKeyboardStatus = 0x64 // i8042: status, command
	portCMOSData       = 0x71
	portResetControl   = 0xcf9

	keyboardReset = 0xfe // pulse the reset line
	resetCPU      = 1 << 2
)

// pio handles an access to I/O ports. It reports whether the guest asked for a
// reset.
func pio(io kvm.IO) (reset bool) {
	if io.Out {
		for i := 0; i < len(io.Data); i += io.Size {
			switch {
			case io.Port == portKeyboardStatus && io.Data[i] == keyboardReset,
				io.Port == portResetControl && io.Data[i]&resetCPU != 0:
				return true
			}
		}
		return false
	}
	var v byte
	switch io.Port {
	case portKeyboardStatus: // buffers are empty: nobody needs to wait
	case portCMOSData: // no update in progress
	default:
		v = 0xff
	}
	for i := range io.Data {
		io.Data[i] = v
	}
	return false
}
