package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/host/wire"
)

// bootLimit is how long a host may take until its agent answers: some 10 s on
// an idle machine, minutes on one that is overloaded.
const bootLimit = 10 * time.Minute

// bootTries is how often a host is booted whose kernel stalls on the way up: in
// a rare race of QEMU 10.0's TCG the first processor gets no timer interrupts.
const bootTries = 4

// host is a running host of either kind.
type host struct {
	kind    string // "tcg" or "native"
	conn    *wire.Conn
	control *os.File
	process *exec.Cmd
	console *tail
	exited  chan struct{} // closed when process was reaped
	waitErr error         // valid after exited
}

// startHost boots a host and returns when commands can be sent. Call it on the
// main goroutine: the host dies with the thread that started it.
func startHost(ctx context.Context, o *options) (*host, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("a test host needs root (for /dev/kvm, mounts, and every file's ownership)")
	}
	kind, err := chooseKind(os.Getenv("RUNV_TEST_HOST"))
	if err != nil {
		return nil, err
	}
	start := startQEMU
	if kind == kindNative {
		start = startNative
	}
	for try := 1; ; try++ {
		h, err := start(o)
		if err != nil {
			return nil, err
		}
		stalled := h.console.stalled
		if try == bootTries {
			stalled = nil // it may be the machine that is slow
		}
		err = h.awaitAgent(ctx, stalled)
		if err == nil {
			return h, nil
		}
		h.kill()
		if !errors.Is(err, errStalled) {
			return nil, err
		}
		fmt.Fprintln(os.Stderr, "testhost: the emulated host stalled while it booted: booting another")
	}
}

var errStalled = errors.New("the host's kernel stalls")

func startQEMU(o *options) (*host, error) {
	kernel, err := prepareQEMU()
	if err != nil {
		return nil, err
	}
	image, err := kernel.initrd(o.shares)
	if err != nil {
		return nil, err
	}
	initrd, err := memoryFile("initrd", image)
	if err != nil {
		return nil, err
	}
	defer initrd.Close()

	h := &host{kind: kindTCG, console: newTail(), exited: make(chan struct{})}
	var theirs *os.File
	if h.control, theirs, err = socketPair(); err != nil {
		return nil, err
	}
	defer theirs.Close()
	consoleIn, consoleOut, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer consoleOut.Close()

	cmd := exec.Command(qemuProgram, qemuArgs(o, kernel)...)
	cmd.ExtraFiles = []*os.File{theirs, consoleOut, initrd} // 3, 4, 5
	cmd.Stderr = h.console
	if err := h.launch(cmd); err != nil {
		return nil, err
	}
	go func() {
		defer consoleIn.Close()
		_, _ = consoleIn.WriteTo(h.console) // ends with QEMU
	}()
	return h, nil
}

// prepareQEMU installs what is missing; one instance at a time.
func prepareQEMU() (*hostKernel, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	lock, err := lockCache(cache)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := ensureTools(); err != nil {
		return nil, err
	}
	return ensureKernel(cache)
}

func qemuArgs(o *options, k *hostKernel) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi,tb-size=1024",
		// Less what TCG lacks anyway, and would warn about.
		"-cpu", "EPYC,+svm,+npt,-fxsr-opt,-misalignsse,-osvw,-topoext,-nrip-save,-xsavec",
		// One more than the commands get: see avoidFirstCPU.
		"-m", strconv.Itoa(o.memoryMiB), "-smp", strconv.Itoa(o.cpus + 1),
		"-kernel", k.image, "-initrd", "/proc/self/fd/5",
		// A busy machine delays the emulated timers: their checks would fail.
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off" +
			" no_timer_check tsc=reliable nokaslr rcupdate.rcu_expedited=1 cryptomgr.notests=1 apparmor=0 audit=0 nowatchdog",
		"-chardev", "socket,id=console,fd=4", "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=2",
		"-chardev", "socket,id=control,fd=3",
		"-device", "virtserialport,chardev=control,nr=1,name=" + portName,
		"-device", "virtio-rng-pci",
	}
	args = append(args, share9p("/", "root", true)...)
	for i, dir := range o.shares {
		args = append(args, share9p(dir, "share"+strconv.Itoa(i), false)...)
	}
	return args
}

func share9p(dir, tag string, readOnly bool) []string {
	// In QEMU's option syntax a comma is doubled.
	fsdev := "local,id=" + tag + ",path=" + strings.ReplaceAll(dir, ",", ",,") + ",security_model=none,multidevs=remap"
	if readOnly {
		fsdev += ",readonly=on"
	}
	return []string{"-fsdev", fsdev, "-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag}
}

// launch starts the host's process in a process group of its own, so that the
// terminal's signals reach only us, and ties its life to ours.
func (h *host) launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	h.process = cmd
	h.conn = wire.NewConn(h.control)
	if err := cmd.Start(); err != nil {
		h.control.Close()
		return err
	}
	go func() {
		h.waitErr = cmd.Wait()
		close(h.exited)
	}()
	return nil
}

// awaitAgent waits until the host can take commands, but not if stalled is
// closed before.
func (h *host) awaitAgent(ctx context.Context, stalled <-chan struct{}) error {
	hello := make(chan error, 1)
	go func() {
		f, err := h.conn.Read()
		if err == nil && f.Kind != wire.Hello {
			err = fmt.Errorf("first frame is of kind %d", f.Kind)
		}
		hello <- err
	}()
	timer := time.NewTimer(bootLimit)
	defer timer.Stop()
	select {
	case err := <-hello:
		if err != nil {
			h.kill()
			return fmt.Errorf("the host did not come up: %w%s", err, h.console)
		}
		return nil
	case <-stalled:
		return errStalled
	case <-timer.C:
		return fmt.Errorf("the host did not come up in %v%s", bootLimit, h.console)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kill ends the host at once and returns when it is gone.
func (h *host) kill() {
	_ = h.process.Process.Kill() // may be gone already
	<-h.exited
	h.control.Close()
}

// memoryFile is an anonymous file: nothing to remove afterwards.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, os.NewSyscallError("set nonblocking", err)
	}
	return os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
	// stalled is closed when the kernel has reported that RCU stalls.
	stalled chan struct{}
	told    bool
}

const tailSize = 8 << 10

func newTail() *tail { return &tail{stalled: make(chan struct{})} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if !t.told && bytes.Contains(t.text, []byte("detected stalls on CPUs")) {
		t.told = true
		close(t.stalled)
	}
	if extra := len(t.text) - tailSize; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// String is for the end of an error message: empty, or a colon and the text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ReplaceAll(string(t.text), "\r", ""))
	if text == "" {
		return ""
	}
	return ":\n" + text
}
