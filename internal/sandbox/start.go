package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/thread"
)

// Descriptors of the VM process.
const (
	syncFD  = 3
	agentFD = 4
	kvmFD   = 5
	logFD   = 6

	// firstNamespaceFD and those after it are user namespaces, see Compose.
	firstNamespaceFD = 7
)

// Options of a VM process.
type Options struct {
	ID         string
	Namespaces []spec.Namespace
	Binds      []spec.Bind // those that are id-mapped need something made beforehand
	Cgroup     *Cgroup     // nil: the caller's
	IOPriority int         // as of ioprio_set(2); 0: the caller's

	Stdin, Stdout, Stderr *os.File
	// ControlTTY makes stdin the controlling terminal.
	ControlTTY bool

	Agent *os.File // the listening agent.sock
	KVM   *os.File // /dev/kvm
	Log   *os.File // nil: none
}

// Process is a VM process that this process started.
type Process struct {
	*os.Process
	conn net.Conn
}

// smallPages keeps the Go runtime's heap, which is small, out of huge pages: on a
// host that gives them to everybody they would be most of what an idle VM costs.
const smallPages = "GODEBUG=disablethp=1"

// withoutLog tells the VM process that its caller has no log. It cannot find out
// by itself: the Go runtime may have opened a descriptor of that number, to poll
// a standard stream that does not block.
const withoutLog = "RUNV_LOG=none"

// cloneFlags are the namespaces the kernel makes in clone3.
var cloneFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
}

// CloseOnExec marks all descriptors above stderr, so that what this process
// inherited from a careless caller goes no further.
func CloseOnExec() error {
	err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	return os.NewSyscallError("close_range", err)
}

// Start starts the VM process. It waits until it is told what to become.
func Start(o Options) (*Process, error) {
	if err := CloseOnExec(); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "sync"), os.NewFile(uintptr(pair[1]), "sync")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}

	attr := &os.ProcAttr{
		Dir:   "/",
		Env:   []string{smallPages},
		Files: []*os.File{o.Stdin, o.Stdout, o.Stderr, theirs, o.Agent, o.KVM, o.Log},
		Sys: &syscall.SysProcAttr{
			// A session of its own: the terminal's signals go to the runtime
			// in the foreground, which passes them on once.
			Setsid:     true,
			Setctty:    o.ControlTTY,
			Cloneflags: unix.CLONE_NEWNS,
		},
	}
	if o.Log == nil {
		attr.Env = append(attr.Env, withoutLog)
	}
	if o.Cgroup != nil {
		attr.Sys.UseCgroupFD = true
		attr.Sys.CgroupFD = int(o.Cgroup.dir.Fd())
	}
	mappings, err := userNamespaces(o.Binds)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer closeAll(mappings)
	attr.Files = append(attr.Files, mappings...)
	join, err := openNamespaces(o.Namespaces, attr.Sys)
	defer func() {
		for _, ns := range join {
			ns.file.Close()
		}
	}()
	if err != nil {
		conn.Close()
		return nil, err
	}
	program, closeProgram := executable(attr.Files)
	child, err := startIn(join, o.IOPriority, program, []string{"runv", "vm", o.ID}, attr)
	// The end of a mount waits for a grace period of RCU, and nobody for it.
	go closeProgram()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the VM process: %w", err)
	}
	return &Process{Process: child, conn: conn}, nil
}

// executable is the path of this program, on a read-only mount if there can be
// one; the VM process itself finds out.
func executable(inherited []*os.File) (path string, close func()) {
	const self = "/proc/self/exe"
	f, err := cage.OpenExecutable()
	if err != nil {
		return self, func() {}
	}
	// Above the numbers that the new process gets, and those that package syscall
	// moves them and its pipe to meanwhile: one each, above all of them.
	above := len(inherited)
	for _, i := range inherited {
		if i != nil {
			above = max(above, int(i.Fd()))
		}
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, above+1+len(inherited)+2)
	if err != nil {
		return self, func() { f.Close() }
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() {
		f.Close()
		unix.Close(fd)
	}
}

// joined is an existing namespace.
type joined struct {
	file *os.File
	flag int
	name string
}

// openNamespaces opens the namespaces to join and puts the new ones into sys.
func openNamespaces(list []spec.Namespace, sys *syscall.SysProcAttr) ([]joined, error) {
	var join []joined
	for _, ns := range list {
		flag, ok := cloneFlags[ns.Type]
		if !ok {
			return join, fmt.Errorf("namespace %s: not supported", ns.Type)
		}
		if ns.Path == "" {
			sys.Cloneflags |= flag
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return join, fmt.Errorf("%s namespace: %w", ns.Type, err)
		}
		join = append(join, joined{file: f, flag: int(flag), name: fmt.Sprintf("%s namespace %s", ns.Type, ns.Path)})
	}
	return join, nil
}

// startIn starts a process that is in the given namespaces, has the I/O priority
// and whose privileges cannot grow. What is to be inherited is set on a thread,
// which is thrown away afterwards.
func startIn(join []joined, ioPriority int, program string, argv []string, attr *os.ProcAttr) (process *os.Process, err error) {
	thread.Run(func() {
		if err = setIOPriority(ioPriority); err != nil {
			return
		}
		for _, ns := range join {
			if err = unix.Setns(int(ns.file.Fd()), ns.flag); err != nil {
				err = fmt.Errorf("join %s: %w", ns.name, os.NewSyscallError("setns", err))
				return
			}
		}
		if err = limitPrivileges(); err == nil {
			process, err = os.StartProcess(program, argv, attr)
		}
	})
	return process, err
}

// setIOPriority sets this thread's I/O priority, as of ioprio_set(2); 0 leaves it.
func setIOPriority(priority int) error {
	const whoProcess = 1
	if priority == 0 {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(priority)); errno != 0 {
		return fmt.Errorf("process.ioPriority: %w", os.NewSyscallError("ioprio_set", errno))
	}
	return nil
}

// Create tells the VM process what to become and waits until the container is
// created. It tells why the guest was booted, nil if it was not. A *Failure is
// the VM process's own report.
func (p *Process) Create(b *Bootstrap) (*ColdBoot, error) {
	if err := writeMessage(p.conn, &message{Kind: kindBootstrap, Bootstrap: b}); err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			return nil, errDied
		}
		return nil, fmt.Errorf("talk to the VM process: %w", err)
	}
	m, err := expect(p.conn, kindCreated)
	if err != nil {
		return nil, err
	}
	return m.Cold, nil
}

// Run starts the created container.
func (p *Process) Run() error {
	if err := writeMessage(p.conn, &message{Kind: kindStart}); err != nil {
		return errDied
	}
	return p.Started()
}

// Started waits until the container runs whose Bootstrap said Start.
func (p *Process) Started() error {
	_, err := expect(p.conn, kindStarted)
	return err
}

// Release closes the sync socket. The VM process goes on if the container was
// created, and ends otherwise.
func (p *Process) Release() error { return p.conn.Close() }

// Inherited are the descriptors that Start gave to the VM process.
type Inherited struct {
	Sync  *Sync
	Agent *net.UnixListener
	KVM   *os.File
	Log   *os.File // nil: none
}

// Descriptors are those of stdio and of what Start gave, by number.
func (in *Inherited) Descriptors() (map[int]string, error) {
	list := map[int]string{0: "stdin", 1: "stdout", 2: "stderr"}
	if in.Log != nil {
		list[int(in.Log.Fd())] = "log"
	}
	for name, conn := range map[string]any{"sync socket": in.Sync.conn, "agent.sock": in.Agent} {
		c, ok := conn.(syscall.Conn)
		if !ok {
			return nil, fmt.Errorf("%s has no descriptor", name)
		}
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { list[int(fd)] = name })
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return list, nil
}

// Inherit takes the descriptors that Start gave to this process, and its
// environment, none of which is for hooks.
func Inherit() (*Inherited, error) {
	logged := !slices.Contains(os.Environ(), withoutLog)
	os.Clearenv()
	for fd := syncFD; fd <= logFD; fd++ {
		unix.CloseOnExec(fd)
	}
	var log *os.File
	if logged {
		log = os.NewFile(logFD, "log")
	}
	file := os.NewFile(syncFD, "sync")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return nil, fmt.Errorf("vm is started by create and run, not by hand: %w", err)
	}
	file = os.NewFile(agentFD, "agent.sock")
	l, err := net.FileListener(file)
	file.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("agent.sock: %w", err), conn.Close())
	}
	agent, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("agent.sock is a %T", l), l.Close(), conn.Close())
	}
	// The path is in the runtime's file system, not in ours.
	agent.SetUnlinkOnClose(false)
	return &Inherited{Sync: &Sync{conn: conn}, Agent: agent, KVM: os.NewFile(kvmFD, "/dev/kvm"), Log: log}, nil
}
