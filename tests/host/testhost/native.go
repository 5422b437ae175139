package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kinds of host, as RUNV_TEST_HOST names them.
const (
	kindNative = "native"
	kindTCG    = "tcg"
)

// chooseKind honours the forced kind, or finds out whether this machine will do.
func chooseKind(forced string) (string, error) {
	switch forced {
	case kindTCG:
		return kindTCG, nil
	case "", kindNative:
		err := nativeKVM()
		if err == nil {
			return kindNative, nil
		}
		if forced == kindNative {
			return "", fmt.Errorf("RUNV_TEST_HOST=native: %w", err)
		}
		return kindTCG, nil
	}
	return "", failf(exitUsage, "RUNV_TEST_HOST=%s: want native or tcg", forced)
}

// printKind says what kind of host run would use, and why an emulated one.
func printKind() error {
	kind, err := chooseKind(os.Getenv("RUNV_TEST_HOST"))
	if err != nil {
		return err
	}
	if reason := nativeKVM(); kind == kindTCG && reason != nil {
		fmt.Printf("%s: %v\n", kind, reason)
		return nil
	}
	fmt.Println(kind)
	return nil
}

// The two ioctls it takes to see whether KVM answers; they have no argument.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
)

// nativeKVM says what keeps this machine from running ordinary guests. A
// /dev/kvm alone proves nothing: kvm_pvm has one too.
func nativeKVM() error {
	_, amd := os.Stat("/sys/module/kvm_amd")
	_, intel := os.Stat("/sys/module/kvm_intel")
	if amd != nil && intel != nil {
		return errors.New("neither kvm_amd nor kvm_intel is loaded")
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer kvm.Close()
	version, err := unix.IoctlRetInt(int(kvm.Fd()), kvmGetAPIVersion)
	if err != nil || version != 12 {
		return fmt.Errorf("/dev/kvm has API version %d (%v), want 12", version, err)
	}
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), kvmCreateVM)
	for err == unix.EINTR { // the Go runtime's own signals
		vm, err = unix.IoctlRetInt(int(kvm.Fd()), kvmCreateVM)
	}
	if err != nil {
		return fmt.Errorf("/dev/kvm cannot create a VM: %w", err)
	}
	return os.NewSyscallError("close", unix.Close(vm))
}

// startNative makes a host out of namespaces: the same view of the file
// systems, process ids and network that an emulated one gives.
func startNative(o *options) (*host, error) {
	h := &host{kind: kindNative, console: newTail(), exited: make(chan struct{})}
	control, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h.control = control
	cmd := exec.Command("/proc/self/exe", append([]string{"native-init"}, o.shares...)...)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = h.console, h.console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
	}
	if err := h.launch(cmd); err != nil {
		return nil, err
	}
	return h, nil
}

// nativeInit is the first process of a native host.
func nativeInit(shares []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("make mounts private", err)
	}
	mounts, err := hostMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if err := composeNative(mounts, shares); err != nil {
		return err
	}
	if err := enterRoot(nativeRoot); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return os.NewSyscallError("share mounts", err)
	}
	if err := unix.Sethostname([]byte("testhost")); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// A machine may have these built in, or lack one nobody is going to need.
	if modprobe, err := lookTool("modprobe"); err == nil {
		out, err := exec.Command(modprobe, "-a", "tun", "fuse", "vhost_vsock", "loop").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "testhost: modprobe: %v: %s\n", err, out)
		}
	}
	return superviseAgent(os.NewFile(3, "control"))
}

const (
	nativeLayers = "/run"      // a tmpfs of ours covers it while the root is composed
	nativeRoot   = "/run/root" // the new root
)

// composeNative builds the new root at nativeRoot: every mount of the machine
// below a layer in memory.
func composeNative(mounts []hostMount, shares []string) error {
	// The mount table names shares by path; hold them before /run is covered.
	held := make([]*os.File, len(shares))
	for i, dir := range shares {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		held[i] = f
	}
	if err := (mountpoint{"layers", nativeLayers, "tmpfs", 0, "size=80%,mode=755"}).mount(); err != nil {
		return err
	}
	for i, m := range mounts {
		if err := layer(m, i); err != nil {
			return err
		}
	}
	for _, m := range []mountpoint{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"/sys/fs/cgroup", "sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC, ""},
	} {
		m.target = filepath.Join(nativeRoot, m.target)
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := mountVolatile(nativeRoot); err != nil {
		return err
	}
	for i, dir := range shares {
		target := filepath.Join(nativeRoot, dir)
		source := "/proc/self/fd/" + strconv.Itoa(int(held[i].Fd()))
		m := mountpoint{source, target, "", unix.MS_BIND | unix.MS_REC, ""}
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// layer puts one mount of the machine, below a writable layer, into the new
// root. What cannot be a lower layer is bound read-only.
func layer(m hostMount, n int) error {
	target := filepath.Join(nativeRoot, m.target)
	st, err := os.Stat(m.target)
	if err != nil {
		return nil // hidden by another mount, or its server is gone
	}
	if st.IsDir() {
		base := filepath.Join(nativeLayers, "layer"+strconv.Itoa(n))
		for _, d := range []string{base + "/upper", base + "/work", target} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.Chmod(base+"/upper", st.Mode()); err != nil {
			return err
		}
		// Colons and commas separate the options; a backslash keeps them.
		lower := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(m.target)
		o := mountpoint{"overlay", target, "overlay", 0, "lowerdir=" + lower + ",upperdir=" + base + "/upper,workdir=" + base + "/work"}
		err := o.mount()
		if err == nil || m.target == "/" {
			return err
		}
	} else if f, err := os.OpenFile(target, os.O_CREATE, 0o644); err != nil {
		return nil // its directory is bound read-only and does not show it
	} else {
		f.Close()
	}
	if err := (mountpoint{m.target, target, "", unix.MS_BIND, ""}).bind(); err != nil {
		return err
	}
	return (mountpoint{"", target, "", unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY, ""}).bind()
}

// enterRoot makes dir the root of this mount namespace and drops the old one.
func enterRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("detach old root", err)
	}
	return os.Chdir("/")
}

// hostMount is a mount of this machine that a native host shows.
type hostMount struct{ target, fstype string }

// hostMounts lists, in mount order, the mounts that hold files, without those
// a host gets of its own.
func hostMounts(path string) ([]hostMount, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var mounts []hostMount
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 1 {
			return nil, fmt.Errorf("%s: malformed line %q", path, line)
		}
		m := hostMount{unescapeMount(f[4]), g[0]}
		if ownMount(m) {
			continue
		}
		mounts = slices.DeleteFunc(mounts, func(o hostMount) bool { return o.target == m.target })
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func ownMount(m hostMount) bool {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib/containers"} {
		if m.target == dir || strings.HasPrefix(m.target, dir+"/") {
			// The volatile /tmp is filled from the machine's own.
			return !strings.HasPrefix(m.target, "/tmp")
		}
	}
	switch m.fstype {
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "autofs", "binfmt_misc", "nsfs",
		"bpf", "tracefs", "debugfs", "securityfs", "pstore", "configfs", "efivarfs", "hugetlbfs", "rpc_pipefs", "fusectl":
		return true
	}
	return false
}

// unescapeMount decodes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
