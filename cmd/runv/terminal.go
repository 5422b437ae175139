package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// terminal is the terminal of a process in the guest, seen from the host: the caller's own,
// in raw mode, or a new one whose master goes to the console socket.
type terminal struct {
	slave *os.File // nil: the caller's own
	host  *os.File // the caller's own
	saved *unix.Termios
}

type terminalOptions struct {
	wanted bool       // the process is to have a terminal
	size   *specs.Box // its first size; nil: none
	socket string     // where to send the master; empty: nowhere
	// foreground: this process stays and carries the terminal.
	foreground bool
}

// openTerminal prepares the terminal; it is nil if the process has none.
func openTerminal(o terminalOptions) (*terminal, error) {
	switch {
	case !o.wanted && o.socket != "":
		return nil, errors.New("--console-socket: process.terminal is false in config.json, or there is no --tty (exec): set it, or leave the option out")
	case !o.wanted:
		return nil, nil
	case o.socket != "":
		return newTerminal(o.size, o.socket)
	case !o.foreground:
		return nil, errors.New("process.terminal (exec: --tty) is set: give --console-socket, for somebody must hold the terminal of a process in the background (or unset it)")
	}
	// Some of stdio may be redirected, as with other runtimes.
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if saved, err := makeRaw(f); err == nil {
			return &terminal{host: f, saved: saved}, nil
		}
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		if saved, err := makeRaw(tty); err == nil {
			return &terminal{host: tty, saved: saved}, nil
		}
		tty.Close()
	}
	return nil, errors.New("process.terminal (exec: --tty) is set, but neither stdio is a terminal nor is there a controlling one: unset it, or use --console-socket")
}

// makeRaw puts a terminal into raw mode, as cfmakeraw(3) does, and gives back
// its settings.
func makeRaw(f *os.File) (*unix.Termios, error) {
	saved, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, os.NewSyscallError("tcgetattr", err)
	}
	raw := *saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, os.NewSyscallError("tcsetattr", err)
	}
	return saved, nil
}

// newTerminal makes a pseudo-terminal and sends its master to the socket.
func newTerminal(size *specs.Box, socket string) (*terminal, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("make a terminal: %w", os.NewSyscallError("TIOCSPTLCK", err))
	}
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", os.NewSyscallError("TIOCGPTN", err))
	}
	name := fmt.Sprintf("/dev/pts/%d", number)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	t := &terminal{slave: slave}
	// The line discipline is in the guest; here bytes pass as they are.
	if _, err := makeRaw(slave); err != nil {
		t.Close()
		return nil, err
	}
	if size != nil && size.Width != 0 && size.Height != 0 {
		ws := unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &ws); err != nil {
			t.Close()
			return nil, os.NewSyscallError("TIOCSWINSZ", err)
		}
	}
	if err := sendFile(socket, name, master); err != nil {
		t.Close()
		return nil, fmt.Errorf("--console-socket %s: %w", socket, err)
	}
	return t, nil
}

// sendFile passes a descriptor with its name, in one message.
func sendFile(socket, name string, f *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _, err = conn.WriteMsgUnix([]byte(name), unix.UnixRights(int(f.Fd())), nil)
	return err
}

// Slave is what the VM process has as stdio; nil: the caller's own stdio.
func (t *terminal) Slave() *os.File {
	if t == nil {
		return nil
	}
	return t.slave
}

// Close restores the caller's terminal, or lets go of the new one.
func (t *terminal) Close() {
	switch {
	case t == nil:
	case t.slave != nil:
		t.slave.Close()
	case t.saved != nil:
		_ = unix.IoctlSetTermios(int(t.host.Fd()), unix.TCSETS, t.saved) // it may be gone
	}
}
