package cage

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// minLandlock is the first ABI with which files can be linked and moved between
// directories: LANDLOCK_ACCESS_FS_REFER. A share without that is none.
const minLandlock = 2

// errataSignal is the correction without which threads that restricted
// themselves one by one cannot signal each other (bit 1: erratum 2).
const errataSignal = 1 << 1

// File rights that a share can need.
const (
	rightsRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	rightsWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR // whiteouts
)

// ruleset is struct landlock_ruleset_attr.
type ruleset struct {
	files   uint64
	network uint64 // since ABI 4
	scopes  uint64 // since ABI 6
}

// restrictions are what a kernel with the given ABI can refuse.
func (o *Options) restrictions(abi, errata int) ruleset {
	files := uint64(1)<<13 - 1 // all of ABI 1
	files |= unix.LANDLOCK_ACCESS_FS_REFER
	if abi >= 3 {
		files |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		files |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	r := ruleset{files: files}
	if abi >= 4 && !o.Network {
		r.network = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 6 {
		r.scopes = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		if errata&errataSignal != 0 {
			r.scopes |= unix.LANDLOCK_SCOPE_SIGNAL
		}
	}
	return r
}

// rights are what the share keeps of the restrictions: nothing in it is
// executed, and no device of it driven.
func (o *Options) rights() uint64 {
	rights := uint64(rightsRead)
	if !o.ReadOnly {
		rights |= rightsWrite
	}
	if o.DeviceNodes {
		rights |= unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	}
	return rights
}

// landlock confines every thread to the root directory, which is the share.
func (o *Options) landlock(abi, errata int) error {
	r := o.restrictions(abi, errata)
	fd, err := createRuleset(&r, abi)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(root)
	if err := allowBeneath(fd, root, o.rights()&r.files); err != nil {
		return err
	}
	return restrictAll(fd)
}

// landlockABI is the version of Landlock in the kernel and its corrections; an
// error says why it cannot be used.
func landlockABI() (abi, errata int, err error) {
	abi, err = landlockQuery(unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case err == unix.ENOSYS:
		return 0, 0, fmt.Errorf("this kernel has none")
	case err == unix.EOPNOTSUPP:
		return 0, 0, fmt.Errorf("not enabled at boot")
	case err != nil:
		return 0, 0, err
	case abi < minLandlock:
		return abi, 0, fmt.Errorf("ABI %d cannot move files between directories", abi)
	}
	// Kernels without this question have not been corrected.
	errata, err = landlockQuery(unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if err != nil {
		errata = 0
	}
	return abi, errata, nil
}
