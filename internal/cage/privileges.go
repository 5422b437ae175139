package cage

import (
	"golang.org/x/sys/unix"
)

// Securebits (include/uapi/linux/securebits.h); each one's lock is the bit
// after it.
const (
	secbitNoRoot            = 1 << 0
	secbitNoSetuidFixup     = 1 << 2
	secbitKeepCaps          = 1 << 4
	secbitNoCapAmbientRaise = 1 << 6
)

// Capabilities are what a file server needs to act for any user of the guest,
// and nothing else: the guest's kernel has decided on every access before it
// reaches the share.
func (o *Options) Capabilities() []uint {
	// Files and directories without permissions for the server itself.
	keep := []uint{unix.CAP_DAC_READ_SEARCH}
	if !o.ReadOnly {
		keep = append(keep,
			unix.CAP_CHOWN,
			unix.CAP_DAC_OVERRIDE,
			unix.CAP_FOWNER, // chmod, utimes, sticky directories
			unix.CAP_FSETID, // setgid bits on files of other groups
			unix.CAP_SETFCAP,
		)
	}
	if o.DeviceNodes {
		keep = append(keep, unix.CAP_MKNOD)
	}
	if o.Network && o.LowPorts {
		keep = append(keep, unix.CAP_NET_BIND_SERVICE)
	}
	return keep
}
