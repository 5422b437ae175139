//go:build !cgo

// Changing the privileges of every thread is only possible without cgo, which
// is how the runtime is built. And as there, the Go runtime does not read its
// cgroup's limits now and then.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

package cage

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the caged process of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "caged" {
		os.Exit(caged(os.Args[2]))
	}
	os.Exit(m.Run())
}

// variants are cages, by name.
var variants = map[string]Options{
	"writable": {},
	"devices":  {DeviceNodes: true},
	"readonly": {ReadOnly: true},
	"network":  {Network: true},
}

// caged closes a cage around this process and makes one attempt from inside.
// Statuses: 0 the attempt succeeded, 1 it failed, 3 there is no cage.
func caged(arg string) int {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return 3
	}
	switch arg {
	case "limits":
		return limited()
	case "proc":
		if err := lookAround(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		return 0
	}
	variant, name, _ := strings.Cut(arg, "/")
	if name == "landlock" {
		if err := cagedLandlock(variant); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		return 0
	}
	if variant == "crash" {
		o := variants["network"]
		f, err := o.filter(os.Getpid())
		if err == nil {
			err = f.LoadAll()
		}
		if err == nil {
			crashes[name].crash()
		}
		return 3
	}
	i := slices.IndexFunc(attempts, func(a attempt) bool { return a.name == name })
	if i < 0 {
		return 3
	}
	prepared := 0
	if attempts[i].prepare != nil {
		prepared = attempts[i].prepare()
	}
	o := variants[variant]
	f, err := o.filter(os.Getpid())
	if err == nil {
		err = f.LoadAll()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	if err := attempts[i].try(prepared); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	return 0
}

// cagedLandlock is there where there is Landlock: on the test host.
var cagedLandlock func(variant string) error

// crashes are ways in which a Go program ends that must not end with the filter's
// word instead of its own.
var crashes = map[string]struct {
	crash func()
	says  string
}{
	"panic":   {func() { panic("on purpose") }, "panic: on purpose"},
	"fault":   {func() { var p *int; *p = 1 }, "nil pointer dereference"},
	"threads": {func() { debug.SetMaxThreads(1) }, "program exceeds 1-thread limit"},
	"abort":   {func() { _ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGABRT); select {} }, "SIGABRT"},
}

func TestCrash(t *testing.T) {
	for name, c := range crashes {
		out, err := exec.Command("/proc/self/exe", "caged", "crash/"+name).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v; want status 2 and %q:\n%.300s", name, err, c.says, out)
		}
	}
}

// limited prints the limits that Limit leaves.
func limited() int {
	if err := Limit(2<<30, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	fmt.Println("threads", debug.SetMaxThreads(10000))
	for name, resource := range map[string]int{"files": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE, "memlock": unix.RLIMIT_MEMLOCK} {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			return 3
		}
		fmt.Println(name, l.Cur, l.Max)
	}
	return 0
}

func TestLimit(t *testing.T) {
	for ram, want := range map[uint64]uint64{64 << 20: 1 << 16, 512 << 20: 1 << 16, 2 << 30: 1 << 18, 8 << 30: 1 << 20, 1 << 40: 1 << 20} {
		if got := openFiles(ram); got != want {
			t.Errorf("%d bytes of RAM: %d descriptors; want %d", ram, got, want)
		}
	}
	out, err := exec.Command("/proc/self/exe", "caged", "limits").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"threads 256\n", "core 0 0\n", "memlock 0 0\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	// A host may allow fewer.
	var soft, hard uint64
	_, rest, _ := strings.Cut(string(out), "files ")
	if n, _ := fmt.Sscan(rest, &soft, &hard); n != 2 || soft != hard || soft > 1<<18 {
		t.Errorf("descriptors: %d, at most %d", soft, hard)
	}
}

// raw makes a system call and gives what it says.
func raw(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := syscall.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

// call is an attempt without preparation.
func call(number uintptr, args ...uintptr) func(int) error {
	return func(int) error { return raw(number, args...) }
}

type outcome int

const (
	killed  outcome = iota // by SIGSYS
	allowed                // the kernel was asked, whatever it said
	refused                // EPERM from the filter
)

// attempt is something that a process in a cage tries. What needs preparation
// has that done outside.
type attempt struct {
	name    string
	cages   string // variants in which want holds; in the others it is killed
	want    outcome
	prepare func() int
	try     func(prepared int) error
}

const everywhere = "writable devices readonly network"

func page() int {
	p, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0
	}
	return int(uintptr(p))
}

var attempts = []attempt{
	// What a taken-over process would try.
	{name: "execve", try: call(unix.SYS_EXECVE)},
	{name: "execveat", try: call(unix.SYS_EXECVEAT)},
	{name: "fork", try: call(unix.SYS_FORK)},
	{name: "vfork", try: call(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_VFORK|uintptr(unix.SIGCHLD))},
	{name: "clone of a process", try: call(unix.SYS_CLONE, uintptr(unix.SIGCHLD))},
	{name: "clone into a namespace", try: call(unix.SYS_CLONE, threadFlags|unix.CLONE_NEWUSER)},
	{name: "clone3", try: call(unix.SYS_CLONE3)},
	{name: "unshare", try: call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
	{name: "setns", try: call(unix.SYS_SETNS)},
	{name: "ptrace", try: call(unix.SYS_PTRACE)},
	{name: "process_vm_writev", try: call(unix.SYS_PROCESS_VM_WRITEV)},
	{name: "kill", try: call(unix.SYS_KILL, 1, 0)},
	{name: "tgkill of another process", try: call(unix.SYS_TGKILL, 1, 1, 0)},
	{name: "pidfd_open", try: call(unix.SYS_PIDFD_OPEN, 1)},
	{name: "mount", try: call(unix.SYS_MOUNT)},
	{name: "umount2", try: call(unix.SYS_UMOUNT2)},
	{name: "pivot_root", try: call(unix.SYS_PIVOT_ROOT)},
	{name: "chroot", try: call(unix.SYS_CHROOT)},
	{name: "fchdir", try: call(unix.SYS_FCHDIR, 0)},
	{name: "open_tree", try: call(unix.SYS_OPEN_TREE)},
	{name: "move_mount", try: call(unix.SYS_MOVE_MOUNT)},
	{name: "fsopen", try: call(unix.SYS_FSOPEN)},
	{name: "mount_setattr", try: call(unix.SYS_MOUNT_SETATTR)},
	{name: "open_by_handle_at", try: call(unix.SYS_OPEN_BY_HANDLE_AT)},
	{name: "name_to_handle_at", try: call(unix.SYS_NAME_TO_HANDLE_AT)},
	{name: "bpf", try: call(unix.SYS_BPF)},
	{name: "perf_event_open", try: call(unix.SYS_PERF_EVENT_OPEN)},
	{name: "userfaultfd", try: call(unix.SYS_USERFAULTFD)},
	{name: "io_uring_setup", try: call(unix.SYS_IO_URING_SETUP)},
	{name: "keyctl", try: call(unix.SYS_KEYCTL)},
	{name: "add_key", try: call(unix.SYS_ADD_KEY)},
	{name: "init_module", try: call(unix.SYS_INIT_MODULE)},
	{name: "finit_module", try: call(unix.SYS_FINIT_MODULE)},
	{name: "kexec_load", try: call(unix.SYS_KEXEC_LOAD)},
	{name: "reboot", try: call(unix.SYS_REBOOT)},
	{name: "swapon", try: call(unix.SYS_SWAPON)},
	{name: "settimeofday", try: call(unix.SYS_SETTIMEOFDAY)},
	{name: "clock_settime", try: call(unix.SYS_CLOCK_SETTIME)},
	{name: "sethostname", try: call(unix.SYS_SETHOSTNAME)},
	{name: "syslog", try: call(unix.SYS_SYSLOG)},
	{name: "setuid", try: call(unix.SYS_SETUID)},
	{name: "capset", try: call(unix.SYS_CAPSET)},
	{name: "setrlimit", try: call(unix.SYS_SETRLIMIT, unix.RLIMIT_NOFILE)},
	{name: "prlimit64", try: call(unix.SYS_PRLIMIT64)},
	{name: "personality", try: call(unix.SYS_PERSONALITY, 0x0400000)},
	{name: "prctl PR_SET_DUMPABLE", try: call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)},
	{name: "prctl PR_CAPBSET_READ", try: call(unix.SYS_PRCTL, unix.PR_CAPBSET_READ)},
	{name: "seccomp", try: call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)},
	{name: "modify_ldt", try: call(unix.SYS_MODIFY_LDT)},
	{name: "arch_prctl", try: call(unix.SYS_ARCH_PRCTL, 0x1001)},
	{name: "iopl", try: call(unix.SYS_IOPL, 3)},
	{name: "memfd_create", try: call(unix.SYS_MEMFD_CREATE)},
	{name: "shmat", try: call(unix.SYS_SHMAT)},
	{name: "mq_open", try: call(unix.SYS_MQ_OPEN)},
	{name: "inotify_init1", try: call(unix.SYS_INOTIFY_INIT1)},
	{name: "fanotify_init", try: call(unix.SYS_FANOTIFY_INIT)},
	{name: "pidfd_getfd", try: call(unix.SYS_PIDFD_GETFD)},
	{name: "vmsplice", try: call(unix.SYS_VMSPLICE)},
	{name: "open", try: call(unix.SYS_OPEN)},
	{name: "creat", try: call(unix.SYS_CREAT)},
	{name: "dup2", try: call(unix.SYS_DUP2, 0, 1)},
	{name: "quotactl", try: call(unix.SYS_QUOTACTL)},
	{name: "a call that does not exist", try: call(1 << 20)},
	{name: "a call of x32", try: call(0x40000000 | unix.SYS_GETPID)},

	// By argument.
	{name: "mmap of code", try: call(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0))},
	{name: "mmap of data", cages: everywhere, want: allowed,
		try: call(unix.SYS_MMAP, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0))},
	{name: "mprotect to code", prepare: page,
		try: func(p int) error { return raw(unix.SYS_MPROTECT, uintptr(p), 4096, unix.PROT_READ|unix.PROT_EXEC) }},
	{name: "mprotect of data", prepare: page,
		try: func(p int) error { return raw(unix.SYS_MPROTECT, uintptr(p), 4096, unix.PROT_READ) }},
	{name: "pkey_mprotect", try: call(unix.SYS_PKEY_MPROTECT)},
	{name: "mremap", try: call(unix.SYS_MREMAP)},
	{name: "ioctl KVM_RUN", cages: everywhere, want: allowed, try: call(unix.SYS_IOCTL, 0, 0xae80)},
	{name: "ioctl KVM_GET_REGS", cages: everywhere, want: allowed, try: call(unix.SYS_IOCTL, 0, 0x8090ae81)},
	{name: "ioctl KVM_SET_REGS", try: call(unix.SYS_IOCTL, 0, 0x4090ae82)},
	{name: "ioctl KVM_CREATE_VM", try: call(unix.SYS_IOCTL, 0, 0xae01)},
	{name: "ioctl KVM_SET_USER_MEMORY_REGION", try: call(unix.SYS_IOCTL, 0, 0x4020ae46)},
	{name: "ioctl KVM_RUN with more bits", try: call(unix.SYS_IOCTL, 0, 1<<32|0xae80)},
	{name: "ioctl TIOCSTI", try: call(unix.SYS_IOCTL, 0, unix.TIOCSTI)},
	{name: "ioctl TIOCLINUX", try: call(unix.SYS_IOCTL, 0, unix.TIOCLINUX)},
	{name: "ioctl TIOCSCTTY", try: call(unix.SYS_IOCTL, 0, unix.TIOCSCTTY)},
	{name: "ioctl TIOCGWINSZ", cages: everywhere, want: allowed, try: call(unix.SYS_IOCTL, 0, unix.TIOCGWINSZ)},
	{name: "a thread", cages: everywhere, want: allowed, try: func(int) error {
		ready := make(chan int)
		go func() { runtime.LockOSThread(); ready <- unix.Gettid(); select {} }()
		<-ready
		return nil
	}},

	// Files.
	{name: "openat2", cages: everywhere, want: allowed, try: call(unix.SYS_OPENAT2)},
	{name: "mkdirat", cages: "writable devices network", want: allowed, try: call(unix.SYS_MKDIRAT)},
	{name: "unlinkat", cages: "writable devices network", want: allowed, try: call(unix.SYS_UNLINKAT)},
	{name: "linkat", cages: "writable devices network", want: allowed, try: call(unix.SYS_LINKAT)},
	{name: "pwritev", cages: "writable devices network", want: allowed, try: call(unix.SYS_PWRITEV)},
	{name: "fchownat", cages: "writable devices network", want: allowed, try: call(unix.SYS_FCHOWNAT)},
	{name: "fsetxattr", cages: "writable devices network", want: allowed, try: call(unix.SYS_FSETXATTR)},
	{name: "mknodat of a FIFO", cages: "writable devices network", want: allowed, try: call(unix.SYS_MKNODAT, 0, 0, unix.S_IFIFO|0o600)},
	{name: "mknodat of a whiteout", cages: "writable devices network", want: allowed, try: call(unix.SYS_MKNODAT, 0, 0, unix.S_IFCHR)},
	{name: "mknodat of a character device", cages: "devices", want: allowed, try: call(unix.SYS_MKNODAT, 0, 0, unix.S_IFCHR|0o600, 0x103)},
	{name: "mknodat of a block device", cages: "devices", want: allowed, try: call(unix.SYS_MKNODAT, 0, 0, unix.S_IFBLK|0o600, 0x800)},

	// Sockets.
	{name: "TCP", cages: "network", want: allowed, try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)},
	{name: "TCP over IPv6", cages: "network", want: allowed, try: call(unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)},
	{name: "UDP", cages: "network", want: allowed, try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)},
	{name: "ping", cages: "network", want: allowed, try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)},
	{name: "a socket of whatever protocol", try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)},
	{name: "routes", try: call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
	{name: "splice", try: call(unix.SYS_SPLICE)},
	{name: "sendto", try: call(unix.SYS_SENDTO)},
	{name: "raw IP", try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{name: "SCTP", try: call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)},
	{name: "packet socket", try: call(unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_DGRAM)},
	{name: "Unix socket", try: call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)},
	{name: "vsock", try: call(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)},
	{name: "netfilter", try: call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)},
	{name: "crypto socket", try: call(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)},
	{name: "socketpair", try: call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM)},
	{name: "connect", cages: "network", want: allowed, try: call(unix.SYS_CONNECT, 0)},
	{name: "a filter for a socket", cages: "network", want: refused, try: call(unix.SYS_SETSOCKOPT, 0, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER)},
	{name: "an option of a socket", cages: "network", want: allowed, try: call(unix.SYS_SETSOCKOPT, 0, unix.SOL_SOCKET, unix.SO_KEEPALIVE)},
	{name: "an option of iptables", try: call(unix.SYS_SETSOCKOPT, 0, 255, 64)},
}

// TestFilter makes every attempt in every cage.
func TestFilter(t *testing.T) {
	for variant := range variants {
		for _, a := range attempts {
			want := killed
			if slices.Contains(strings.Fields(a.cages), variant) {
				want = a.want
			}
			t.Run(variant+"/"+a.name, func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command("/proc/self/exe", "caged", variant+"/"+a.name)
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
				got := allowed
				switch {
				case ws.Signaled() && ws.Signal() == unix.SIGSYS:
					got = killed
				case ws.ExitStatus() > 1 || ws.Signaled():
					t.Fatalf("%v: %s", ws, out)
				case string(out) == unix.EPERM.Error()+"\n":
					got = refused
				}
				if got != want {
					t.Errorf("outcome %d; want %d (%s)", got, want, out)
				}
			})
		}
	}
}

// TestSeal: what is not in the list becomes a descriptor of nothing.
func TestSeal(t *testing.T) {
	leak, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	kept, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	raw, err := kept.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	open, err := descriptors()
	if err != nil {
		t.Fatal(err)
	}
	// The test's own.
	keep := map[int]string{}
	for fd, name := range open {
		if fd != leak {
			keep[fd] = name
		}
	}
	replaced, err := Seal(keep)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("[%d (/etc/passwd)]", leak); fmt.Sprint(replaced) != want {
		t.Errorf("replaced: %v; want %s", replaced, want)
	}
	var b [1]byte
	if n, err := unix.Read(leak, b[:]); n != 0 || err != nil {
		t.Errorf("read of what was replaced: %d, %v; want the end", n, err)
	}
	if err := raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags != unix.FD_CLOEXEC {
			t.Errorf("flags of what was kept: %d, %v", flags, err)
		}
	}); err != nil {
		t.Error(err)
	}
}

func TestMachineFiles(t *testing.T) {
	for name, want := range map[string]bool{
		"anon_inode:[eventfd]": true, "anon_inode:kvm-vcpu:3": true, "anon_inode:kvm-vm": true, "anon_inode:[eventpoll]": true,
		"anon_inode:[userfaultfd]": false, "anon_inode:bpf-prog": false, "/anon_inode:[eventfd]": false, "socket:[1]": false, "": false,
	} {
		if got := isMachineFile(name); got != want {
			t.Errorf("%q: %v; want %v", name, got, want)
		}
	}
}

// TestProc: the file server's procfs shows this process's files and nothing of
// the host's.
func TestProc(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "caged", "proc")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// lookAround is the process in TestProc.
func lookAround() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	dir, err := NewProc()
	if err != nil {
		return err
	}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return err
	}
	at := func(name string) error {
		_, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}
	if err := at(fmt.Sprint(f.Fd())); err != nil {
		return fmt.Errorf("a descriptor of this process: %w", err)
	}
	for _, name := range []string{"sys/kernel/core_pattern", "sysrq-trigger", "kcore"} {
		if err := at("../../" + name); err != unix.ENOENT {
			return fmt.Errorf("%s: %v; want ENOENT", name, err)
		}
	}
	return nil
}

// TestOptions: what is not needed is not there.
func TestOptions(t *testing.T) {
	for name, want := range map[string][]uint{
		"readonly": {unix.CAP_DAC_READ_SEARCH},
		"writable": {unix.CAP_DAC_READ_SEARCH, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP},
		"devices":  {unix.CAP_DAC_READ_SEARCH, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP, unix.CAP_MKNOD},
	} {
		o := variants[name]
		if got := o.Capabilities(); !slices.Equal(got, want) {
			t.Errorf("%s: capabilities %v; want %v", name, got, want)
		}
	}
	for _, o := range []Options{{LowPorts: true}, {Network: true}, {ReadOnly: true, LowPorts: true}} {
		if slices.Contains(o.Capabilities(), unix.CAP_NET_BIND_SERVICE) {
			t.Errorf("%+v: CAP_NET_BIND_SERVICE", o)
		}
	}
	if o := (Options{Network: true, LowPorts: true}); !slices.Contains(o.Capabilities(), unix.CAP_NET_BIND_SERVICE) {
		t.Error("no CAP_NET_BIND_SERVICE where the container has it")
	}
	for _, tt := range []struct {
		o           Options
		abi, errata int
		rights      uint64
		want        ruleset
	}{
		{Options{}, 2, 0, 0x37fe, ruleset{files: 0x3fff}},
		{Options{}, 3, 0, 0x77fe, ruleset{files: 0x7fff}},
		{Options{}, 4, 0, 0x77fe, ruleset{files: 0x7fff, network: 3}},
		{Options{Network: true}, 5, 0, 0x77fe, ruleset{files: 0xffff}},
		{Options{Network: true, DeviceNodes: true}, 6, 0, 0x7ffe, ruleset{files: 0xffff, scopes: 1}},
		{Options{Network: true, ReadOnly: true}, 6, 3, 0xc, ruleset{files: 0xffff, scopes: 3}},
	} {
		if got := tt.o.restrictions(tt.abi, tt.errata); got != tt.want {
			t.Errorf("ABI %d: %+v; want %+v", tt.abi, got, tt.want)
		}
		if got := tt.o.rights() & tt.want.files; got != tt.rights {
			t.Errorf("ABI %d, %+v: rights %#x; want %#x", tt.abi, tt.o, got, tt.rights)
		}
	}
}
