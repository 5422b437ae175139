package cage

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/kvm"
)

// Rule allows system calls.
type Rule struct {
	Calls []string
	// When are conditions on arguments, one of which must hold; nil: none.
	When []Condition
	// Rare says why a run of the tests may pass without these calls.
	Rare string
	// Refuse has the calls fail with EPERM instead: what a guest may ask for
	// and does not get.
	Refuse bool
}

// Condition are tests of arguments that hold all.
type Condition []specs.LinuxSeccompArg

// Group are the calls for one purpose.
type Group struct {
	Purpose string
	Rules   []Rule
}

// is holds if argument index has the value; in words of 64 bits.
func is(index uint, value uint64) Condition {
	return Condition{{Index: index, Value: value, Op: specs.OpEqualTo}}
}

// bits holds if the bits of mask in argument index are those of value.
func bits(index uint, mask, value uint64) Condition {
	return Condition{{Index: index, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}}
}

// and joins conditions on different arguments.
func (c Condition) and(other Condition) Condition { return append(c[:len(c):len(c)], other...) }

func oneOf[T ~int | ~uint32](index uint, values ...T) []Condition {
	var list []Condition
	for _, v := range values {
		list = append(list, is(index, uint64(v)))
	}
	return list
}

// threadFlags are those with which the Go runtime makes a thread, and no others:
// a new process or namespace has different ones.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_SYSVSEM | unix.CLONE_THREAD | unix.CLONE_SETTLS

// noExec is for mmap: nothing becomes code. What is mapped keeps its rights, as
// there is no mprotect.
var noExec = []Condition{bits(2, unix.PROT_EXEC, 0)}

const prSetVMA = 0x53564d41 // PR_SET_VMA

// Groups is the list of what a VM process calls once its cage is closed.
// pid is its own process id as it sees it.
func (o *Options) Groups(pid int) []Group {
	groups := []Group{
		{"virtual processors", []Rule{
			{Calls: []string{"ioctl"}, When: oneOf(1, kvm.RunRequests()...)},
			{Calls: []string{"ioctl"}, When: oneOf(1, kvm.CheckpointRequests()...), Rare: "one of KVM_GET_XSAVE and KVM_GET_XSAVE2 is enough for a host"},
		}},
		{"Go runtime", goRuntime(pid)},
		{"streams and sockets", streams},
		{"file server: reading", reading},
	}
	if !o.ReadOnly {
		groups = append(groups, Group{"file server: writing", writing(o.DeviceNodes)})
	}
	if o.Network {
		groups = append(groups, Group{"network", network})
	}
	return groups
}

func goRuntime(pid int) []Rule {
	return []Rule{
		{Calls: []string{"futex", "nanosleep", "epoll_pwait", "epoll_ctl", "sched_yield", "getpid", "gettid", "madvise", "munmap"}},
		{Calls: []string{"rt_sigprocmask", "rt_sigreturn", "sigaltstack", "exit_group", "exit"}},
		{Calls: []string{"mmap"}, When: noExec},
		{Calls: []string{"clone"}, When: []Condition{is(0, threadFlags)}},
		{Calls: []string{"tgkill"}, When: []Condition{is(0, uint64(pid))}},
		{Calls: []string{"prctl"}, When: oneOf(0, unix.PR_SET_NAME)},
		{Calls: []string{"prctl"}, When: oneOf(0, prSetVMA), Rare: "names of memory areas, where the kernel takes them"},
		{Calls: []string{"getrandom", "sched_getaffinity"}},
		{Calls: []string{"rt_sigaction"}, Rare: "a crash of the program"},
		{Calls: []string{"clock_gettime"}}, // the processor time while the guest boots
		{Calls: []string{"restart_syscall"}, Rare: "the kernel's own, after SIGCONT and a thaw"},
	}
}

// streams are stdio, the log, agent.sock, eventfds.
var streams = []Rule{
	{Calls: []string{"read", "write", "close", "fcntl", "fstat"}},
	{Calls: []string{"accept4", "shutdown", "getsockname", "ppoll"}},
	{Calls: []string{"ioctl"}, When: oneOf(1, unix.TIOCGWINSZ)},
}

// reading is what a read-only share needs.
var reading = []Rule{
	{Calls: []string{"openat2", "openat", "statx", "readlinkat", "preadv", "getdents64", "lseek", "fstatfs"}},
	{Calls: []string{"fgetxattr", "flistxattr", "getxattr", "listxattr"}, Rare: "hosts before Linux 6.13"},
	{Calls: []string{"getxattrat", "listxattrat"}, Rare: "hosts since Linux 6.13"},
	{Calls: []string{"fsync", "fdatasync", "syncfs"}},
}

func writing(deviceNodes bool) []Rule {
	mknod := Rule{Calls: []string{"mknodat"}}
	if !deviceNodes {
		// And whiteouts, which are character devices 0/0.
		mknod.When = append(oneTypeOf(2, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK),
			bits(2, unix.S_IFMT, unix.S_IFCHR).and(is(3, 0)))
	}
	return []Rule{
		mknod,
		{Calls: []string{"mkdirat", "symlinkat", "linkat", "unlinkat", "renameat2"}},
		{Calls: []string{"pwritev", "pwritev2", "ftruncate", "fallocate", "copy_file_range"}},
		{Calls: []string{"fchmodat", "fchownat", "utimensat"}},
		{Calls: []string{"fsetxattr", "fremovexattr", "setxattr", "removexattr"}, Rare: "hosts before Linux 6.13"},
		{Calls: []string{"setxattrat", "removexattrat"}, Rare: "hosts since Linux 6.13"},
	}
}

func oneTypeOf(index uint, types ...uint64) []Condition {
	var list []Condition
	for _, t := range types {
		list = append(list, bits(index, unix.S_IFMT, t))
	}
	return list
}

// network is what stands in for the guest's sockets: those of IP, streams and
// datagrams, without raw ones. The sockets that ask about routes are there already.
var network = []Rule{
	{Calls: []string{"socket"}, When: []Condition{
		inet(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP), inet(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP),
		inet(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP), inet(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP),
		inet(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP), inet(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6),
	}},
	{Calls: []string{"bind", "connect", "listen", "getpeername", "getsockopt", "recvfrom", "sendmsg", "recvmsg"}},
	// Programs for the kernel to run do not come from a guest.
	{Calls: []string{"setsockopt"}, Refuse: true, When: []Condition{
		is(1, unix.SOL_SOCKET).and(is(2, unix.SO_ATTACH_FILTER)),
		is(1, unix.SOL_SOCKET).and(is(2, unix.SO_ATTACH_BPF)),
		is(1, unix.SOL_SOCKET).and(is(2, unix.SO_ATTACH_REUSEPORT_CBPF)),
		is(1, unix.SOL_SOCKET).and(is(2, unix.SO_ATTACH_REUSEPORT_EBPF)),
	}},
	{Calls: []string{"setsockopt"}, When: oneOf(1, unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_IPV6)},
}

// socketType is the part of socket(2)'s second argument that is no flag.
const socketType = 0xf

func inet(domain, typ, protocol uint64) Condition {
	return is(0, domain).and(bits(1, socketType, typ)).and(is(2, protocol))
}
