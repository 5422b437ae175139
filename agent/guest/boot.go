package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/socket"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/loopback"
	"runv.dev/runv/internal/thread"
)

// Directories of the guest's initial root file system.
const (
	// rootDir is where the root is mounted once more, see moveRoot.
	rootDir = "/root"
	// containerDir is where a container's root file system is mounted, in
	// its own mount namespace.
	containerDir = "/container"
	cgroupDir    = "/sys/fs/cgroup"
)

// Directories are what the initial root file system has to contain.
var Directories = []string{"/dev", "/proc", "/sys", rootDir, containerDir}

// bootMounts are the agent's own file systems.
var bootMounts = []struct {
	kind, target string
	flags        uintptr
	data         string
}{
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=755"},
	{"cgroup2", cgroupDir, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
}

// Boot makes a bare kernel a guest: what process 1 has to do before it can run
// an agent.
func Boot() error {
	keepSignals()
	if err := moveRoot(); err != nil {
		return err
	}
	for _, m := range bootMounts {
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	if err := openConsole(); err != nil {
		return err
	}
	// Only now that every mount point is in use.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := enableControllers(cgroupDir); err != nil {
		return fmt.Errorf("enable cgroup controllers: %w", err)
	}
	if err := loopback.Up(); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	relaxTimers()
	// The agent is the last to go.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return err
	}
	// Containers get limits of their own, up to this.
	files := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &files, nil); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// relaxTimers relaxes those of all threads.
func relaxTimers() {
	// A thread of its own leaves no other out.
	thread.Run(initproc.RelaxTimers)
}

// openConsole gives the agent a standard error, for its last words, if the
// kernel had no console yet when it started the agent: it then is /dev/null.
func openConsole() error {
	var st unix.Stat_t
	if err := unix.Fstat(unix.Stderr, &st); err == nil && st.Rdev != unix.Mkdev(1, 3) {
		return nil
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd, err = unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open a console: %w", err)
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// keepSignals takes note of the signals that would end the agent, so that they
// do not. Ignoring them would be inherited by every process.
func keepSignals() {
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE,
		unix.SIGALRM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	go func() {
		for range ignored {
		}
	}()
}

// moveRoot mounts the root file system once more and moves that over it:
// pivot_root, which containers need, refuses to leave the kernel's first mount.
func moveRoot() error {
	if err := unix.Mount("/", rootDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the root once more: %w", err)
	}
	if err := unix.Chdir(rootDir); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// OpenLog has the logger of a booted guest: the virtio console port named
// runv.log if there is one, else the kernel's log.
func OpenLog() *slog.Logger {
	w, err := openLogPort()
	if err != nil {
		w, err = os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	}
	if err != nil {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func openLogPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(content)) == protocol.LogPort {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_WRONLY, 0)
		}
	}
	return nil, errors.New("no port " + protocol.LogPort)
}

// anyCID is VMADDR_CID_ANY.
const anyCID = 0xffffffff

// Listen opens the agent's two ports.
func Listen() (control, stream net.Listener, err error) {
	c, err := vsock.ListenContextID(anyCID, protocol.ControlPort, nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := vsock.ListenContextID(anyCID, protocol.StreamPort, nil)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return hostListener{c}, hostListener{s}, nil
}

// hostListener refuses connections that do not come from the host: a workload
// can reach the agent's ports as well.
type hostListener struct{ net.Listener }

func (l hostListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := conn.RemoteAddr().(*vsock.Addr); ok && from.ContextID == protocol.HostCID {
			return conn, nil
		}
		conn.Close()
	}
}

// helloTimeout bounds the one connection to the host, which may be busy.
const helloTimeout = time.Minute

// Hello tells the host that the agent listens.
func Hello() error {
	conn, err := dialHost(protocol.HelloPort)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	err = conn.SetDeadline(time.Now().Add(helloTimeout))
	if err == nil {
		_, err = conn.Write(protocol.AppendHello(nil))
	}
	if err == nil {
		err = conn.CloseWrite()
	}
	if err == nil {
		// A connection that is closed on this side has 8 seconds until the kernel
		// resets it. So the host comes first.
		_, err = conn.Read(make([]byte, 1))
		if err == io.EOF || errors.Is(err, unix.ECONNRESET) {
			err = nil
		}
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	return nil
}

// dialHost connects to a port of the host, for as long as that takes: of its own
// accord the kernel gives up after 2 seconds, which a busy host may need.
func dialHost(port uint32) (*socket.Conn, error) {
	conn, err := socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, "vsock", nil)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		limit := unix.NsecToTimeval(int64(helloTimeout))
		var set error
		err = raw.Control(func(fd uintptr) {
			set = unix.SetsockoptTimeval(int(fd), unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit)
		})
		err = errors.Join(err, os.NewSyscallError("setsockopt", set))
	}
	if err == nil {
		_, err = conn.Connect(context.Background(), &unix.SockaddrVM{CID: protocol.HostCID, Port: port})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// VirtioFS mounts a share by its tag.
func VirtioFS(tag string) initproc.Rootfs {
	return initproc.Rootfs{Type: "virtiofs", Source: tag, Target: containerDir}
}

// CgroupRoot is where Boot mounted the cgroups.
func CgroupRoot() string { return cgroupDir }

// Reset ends the guest at once; the VMM sees it.
func Reset() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		panic(fmt.Sprintf("reset: %v", err))
	}
}
