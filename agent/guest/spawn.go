package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/internal/thread"
)

// prepareTimeout bounds the steps of a child, so that a share that does not
// answer fails a request instead of blocking it.
const prepareTimeout = 100 * time.Second

// child is the agent started again on its way to become a container's process.
type child struct {
	pid    int
	done   <-chan ended
	socket *os.File
	idle   bool // it has reported so
}

// spawn starts a child: kind is initproc.InitArg or ExecArg. With a user or time
// namespace to be born in, sys is not used.
func (a *Agent) spawn(kind string, sys *syscall.SysProcAttr, ns *birthplace) (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := pair[0], pair[1]
	defer unix.Close(theirs)
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		return nil, os.NewSyscallError("set nonblocking", err)
	}
	attr := &syscall.ProcAttr{
		Dir: "/",
		// One thread does all the work.
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{a.null.Fd(), a.stderr.Fd(), a.stderr.Fd(), uintptr(theirs)},
		Sys:   sys,
	}
	c := &child{socket: os.NewFile(uintptr(ours), "child")}
	start := func() error {
		var err error
		c.pid, c.done, err = a.reaper.start(func() (int, error) {
			return initproc.WithDefaultTimers(func() (int, error) {
				if ns.user != nil || ns.time != nil {
					return forkInNamespaces(ns, a.exe, []string{a.exe, kind}, attr)
				}
				return syscall.ForkExec(a.exe, []string{a.exe, kind}, attr)
			})
		})
		return err
	}
	if ns.pid == nil {
		err = start()
	} else {
		err = inPIDNamespace(int(ns.pid.Fd()), start)
	}
	if err != nil {
		c.socket.Close()
		return nil, fmt.Errorf("start %s: %w", kind, err)
	}
	return c, nil
}

// inPIDNamespace calls start on a thread whose children are born in a PID
// namespace. The thread ends with it: it cannot come back.
func inPIDNamespace(pidns int, start func() error) (err error) {
	thread.Run(func() {
		if err = unix.Setns(pidns, unix.CLONE_NEWPID); err != nil {
			err = os.NewSyscallError("setns", err)
			return
		}
		err = start()
	})
	return err
}

// receive reads the next report; a failure in it is an error.
func (c *child) receive() (*initproc.Report, []int, error) {
	var report initproc.Report
	fds, err := initproc.Receive(c.socket, &report)
	if err != nil {
		return nil, nil, err
	}
	if report.Failure != nil {
		closeAll(fds)
		return nil, nil, report.Failure
	}
	return &report, fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// waitIdle returns when the child is ready for its configuration.
func (c *child) waitIdle() error {
	if c.idle {
		return nil
	}
	_, fds, err := c.receive()
	closeAll(fds)
	c.idle = err == nil
	return err
}

// prepare configures the child and returns what it reports, with the master of
// its terminal if it has one. It sends the descriptors and does not close them.
func (c *child) prepare(cfg *initproc.Config, fds ...int) (report *initproc.Report, terminal *os.File, err error) {
	if err := initproc.Send(c.socket, cfg, fds...); err != nil {
		return nil, nil, c.lost(err)
	}
	if err := c.socket.SetReadDeadline(time.Now().Add(prepareTimeout)); err != nil {
		return nil, nil, err
	}
	report, received, err := c.receive()
	if err != nil {
		return nil, nil, c.lost(err)
	}
	if cfg.Process.Terminal != (len(received) == 1) {
		closeAll(received)
		return nil, nil, errors.New("the child sent no terminal")
	}
	if len(received) == 1 {
		if err := unix.SetNonblock(received[0], true); err != nil {
			closeAll(received)
			return nil, nil, os.NewSyscallError("set nonblocking", err)
		}
		terminal = os.NewFile(uintptr(received[0]), "terminal")
	}
	return report, terminal, c.socket.SetReadDeadline(time.Time{})
}

// lost explains the end of the socket.
func (c *child) lost(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errors.New("the process ended during its setup")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the setup of the process took longer than %v", prepareTimeout)
	}
	return err
}

// release lets a prepared child call execve and returns when it has.
func (c *child) release(state []byte) error {
	defer c.socket.Close()
	if len(state) == 0 {
		state = []byte("null")
	}
	if err := initproc.Send(c.socket, &initproc.Go{State: state}); err != nil {
		return c.lost(err)
	}
	_, fds, err := c.receive()
	closeAll(fds)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	if err == nil {
		err = errors.New("unexpected report from the process")
	}
	return err
}

// abandon ends a child that did not become a process.
func (a *Agent) abandon(c *child) {
	c.socket.Close()
	if err := a.reaper.signal(c.pid, unix.SIGKILL); err == nil {
		<-c.done
	}
}
