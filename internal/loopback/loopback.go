// Package loopback brings up the device that a new network namespace, or a new
// guest, has down.
package loopback

import (
	"os"

	"golang.org/x/sys/unix"
)

// Up brings up the loopback device of the calling thread's network namespace.
func Up() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("set interface flags", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}
