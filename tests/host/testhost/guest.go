package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// portName is the virtio-serial port that carries the control stream.
const portName = "runv.testhost"

// Places in the initial file system, shared with the control program.
const (
	initModules = "/modules" // kernel modules, named in load order
	initShares  = "/shares"  // writable directories, one a line; mount tags share0, share1 …
	initParent  = "/modroot" // one line: the directory of the kernel's modules in the real root
)

const mount9p = "trans=virtio,version=9p2000.L,msize=1048576"

// guestInit is the first process of an emulated host. It powers the machine
// off instead of returning.
func guestInit() error {
	err := bootGuest()
	if err != nil {
		fmt.Fprintf(os.Stderr, "testhost: %v\n", err)
	}
	unix.Sync()
	return os.NewSyscallError("reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

func bootGuest() error {
	for _, m := range []mountpoint{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := insertModules(); err != nil {
		return err
	}
	if err := holdVM(); err != nil {
		return err
	}
	shares, err := readLines(initShares)
	if err != nil {
		return err
	}
	modules, err := readLines(initParent)
	if err != nil {
		return err
	}
	if err := mountRoot(shares); err != nil {
		return err
	}
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount("/newroot", "/", "", unix.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("move root", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	// An init's root is private to it; container engines expect it shared.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return os.NewSyscallError("share mounts", err)
	}
	if err := prepareSystem(modules[0]); err != nil {
		return err
	}
	port, err := openPort(portName)
	if err != nil {
		return err
	}
	return superviseAgent(port)
}

func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' }), nil
}

func insertModules() error {
	files, err := os.ReadDir(initModules) // sorted by name: the load order
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(filepath.Join(initModules, file.Name()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", file.Name(), err)
		}
	}
	return nil
}

type mountpoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mountpoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	return m.bind()
}

// bind mounts on what is there already.
func (m mountpoint) bind() error {
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// mountRoot composes the root file system at /newroot: the outer machine's,
// read-only, below a layer in memory, with the shares on top.
func mountRoot(shares []string) error {
	const root = "/newroot"
	mounts := []mountpoint{
		{"root", "/ro", "9p", unix.MS_RDONLY, mount9p + ",cache=loose"},
		{"tmpfs", "/rw", "tmpfs", 0, "size=80%,mode=755"},
	}
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	for _, d := range []string{"/rw/upper", "/rw/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	overlay := mountpoint{"overlay", root, "overlay", 0, "lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work"}
	if err := overlay.mount(); err != nil {
		return err
	}
	for _, d := range []string{"proc", "sys", "dev"} {
		target := filepath.Join(root, d)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+d, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s: %w", d, err)
		}
	}
	if err := mountVolatile(root); err != nil {
		return err
	}
	for i, dir := range shares {
		// No caching: both sides see each other's writes.
		m := mountpoint{"share" + strconv.Itoa(i), filepath.Join(root, dir), "9p", 0, mount9p + ",cache=mmap"}
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// mountVolatile mounts under root the file systems that live in memory. /tmp
// keeps showing what the outer /tmp holds: each of its entries is bound into
// the new one.
func mountVolatile(root string) error {
	for _, m := range []mountpoint{
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"shm", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"run", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"containers", "var/lib/containers", "tmpfs", 0, "mode=755"},
	} {
		m.target = filepath.Join(root, m.target)
		if err := m.mount(); err != nil {
			return err
		}
	}
	tmp, fresh := filepath.Join(root, "tmp"), filepath.Join(root, "run/.tmp")
	if err := (mountpoint{"tmp", fresh, "tmpfs", 0, "mode=1777"}).mount(); err != nil {
		return err
	}
	if err := bindEntries(tmp, fresh); err != nil {
		return err
	}
	if err := unix.Mount(fresh, tmp, "", unix.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("move /tmp", err)
	}
	return os.Remove(fresh)
}

func bindEntries(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(from, 0o1777)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		var err error
		switch {
		case e.IsDir():
			err = os.Mkdir(dst, 0o755)
		case e.Type().IsRegular():
			var copied bool
			if copied, err = copySmall(src, dst); copied {
				continue
			}
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(src); err == nil {
				err = os.Symlink(target, dst)
			}
			if err == nil {
				continue
			}
		default:
			continue // a socket or pipe of the outer machine has nobody behind it here
		}
		if err == nil {
			err = unix.Mount(src, dst, "", unix.MS_BIND|unix.MS_REC, "")
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("keep %s: %w", src, err)
		}
	}
	return nil
}

// copySmall keeps the mount table short: only a large file is worth a mount,
// for which an empty one is made.
func copySmall(src, dst string) (copied bool, err error) {
	st, err := os.Stat(src)
	if err != nil {
		return false, err
	}
	var data []byte
	small := st.Size() <= 64<<10
	if small {
		if data, err = os.ReadFile(src); err != nil {
			return false, err
		}
	}
	if err := os.WriteFile(dst, data, st.Mode().Perm()); err != nil {
		return false, err
	}
	owner := st.Sys().(*syscall.Stat_t)
	return small, os.Chown(dst, int(owner.Uid), int(owner.Gid))
}

// prepareSystem does what a distribution's init would: modules, cgroups, loopback.
func prepareSystem(modules string) error {
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return err
	}
	if err := unix.Mount(modules, "/lib/modules", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /lib/modules: %w", err)
	}
	if err := mountCgroups(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("testhost")); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// The nodes in /dev of these come with the module. All else autoloads.
	cmd := exec.Command("/sbin/modprobe", "-a", "tun", "fuse", "vhost_vsock", "loop")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe: %w: %s", err, out)
	}
	return nil
}

func mountCgroups() error {
	const root = "/sys/fs/cgroup"
	if err := (mountpoint{"cgroup2", root, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"}).mount(); err != nil {
		return err
	}
	b, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(b)) {
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable controller: %w", err)
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("SIOCSIFFLAGS lo", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr))
}

// openPort finds the virtio-serial port by its name.
func openPort(name string) (*os.File, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(b)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port is named %s", name)
}

// superviseAgent runs the agent on control and reaps orphans until it ends.
func superviseAgent(control *os.File) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	if err := avoidFirstCPU(); err != nil {
		return err
	}
	agent, err := os.StartProcess("/proc/self/exe", []string{"testhost", "agent"}, &os.ProcAttr{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Dir: "/",
		// The console takes the agent's log.
		Files: []*os.File{null, os.Stdout, os.Stderr, control},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	null.Close()
	control.Close()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case pid == agent.Pid && ws.ExitStatus() != 0:
			return fmt.Errorf("agent ended: status %#x", int(ws))
		case pid == agent.Pid:
			return nil
		}
	}
}

// avoidFirstCPU keeps what the calling goroutine starts from now on off CPU 0.
//
// In QEMU's TCG every FXRSTOR and XRSTOR, on whatever processor, clears a bit
// of the first processor's hflags2 without a lock (cpu_clear_ignne). The same
// word holds the global interrupt flag and the nested-paging flag, so what a
// VMRUN or #VMEXIT on the first processor has just written to it can be
// undone: interrupts get lost, or arrive between a guest and its host. On a
// processor that runs no guests these flags never change.
func avoidFirstCPU() error {
	runtime.LockOSThread()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	set.Clear(0)
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &set))
}
