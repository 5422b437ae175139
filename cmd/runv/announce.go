package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// announcement tells the caller which process on the host stands for the one in
// the guest.
type announcement struct {
	pidFile     string // gets its pid
	pidfdSocket string // gets a pidfd
}

func announceFlags(process string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "pid-file", Usage: "write the pid of " + process + " to `FILE`"},
		&cli.StringFlag{Name: "pidfd-socket", Usage: "send a pidfd of " + process + " to the Unix socket at `PATH`"},
	}
}

func announceArgs(c *cli.Context) announcement {
	return announcement{pidFile: c.String("pid-file"), pidfdSocket: c.String("pidfd-socket")}
}

// make announces a process, which is this one or a child that nobody has waited
// for.
func (a announcement) make(pid int) error {
	if a.pidfdSocket != "" {
		if err := sendPidfd(a.pidfdSocket, pid); err != nil {
			return fmt.Errorf("--pidfd-socket %s: %w", a.pidfdSocket, err)
		}
	}
	if a.pidFile != "" {
		return writePIDFile(a.pidFile, pid)
	}
	return nil
}

func sendPidfd(socket string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	return sendFile(socket, "pidfd", pidfd)
}
