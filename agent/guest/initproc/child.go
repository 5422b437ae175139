package initproc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/seccomp"
)

// Main is the child: it never returns. kind is InitArg or ExecArg.
func Main(kind string) {
	// Namespaces, capabilities, user and seccomp filters are a thread's, and
	// execve takes those of the thread that calls it.
	runtime.LockOSThread()
	RelaxTimers()
	socket := os.NewFile(SocketFD, "agent")
	unix.CloseOnExec(SocketFD)
	c := &child{socket: socket, kind: kind}
	err := c.run()
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		os.Exit(0) // the agent has no use for this child
	}
	if Send(socket, &Report{Failure: Fail(err)}) != nil {
		fmt.Fprintln(os.Stderr, "runv-agent:", err)
	}
	os.Exit(1)
}

type child struct {
	socket *os.File
	kind   string
	cfg    Config
	report Report

	filter *seccomp.Filter // nil: none
	caps   capSets
	path   string   // what to execute
	env    []string // with HOME
}

func (c *child) run() error {
	// Nobody in the container may look into this process before it is one of
	// its own: it still holds what is the agent's.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := Send(c.socket, &Report{Idle: true}); err != nil {
		return err
	}
	fds, err := Receive(c.socket, &c.cfg)
	if err != nil {
		return err
	}
	if err := c.prepare(fds); err != nil {
		return err
	}
	var release Go
	if _, err := Receive(c.socket, &release); err != nil {
		return err
	}
	return c.execute(&release)
}

// prepare does everything short of execve, and reports so.
func (c *child) prepare(fds []int) error {
	p := c.cfg.Process
	var err error
	if linux := c.cfg.Spec.Linux; linux != nil && linux.Seccomp != nil {
		c.filter, err = seccomp.Compile(linux.Seccomp)
		if err != nil {
			return Unsupported("linux.seccomp: %v", err)
		}
	}
	caps, warnings := parseCaps(p.Capabilities)
	c.caps = caps
	c.report.Warnings = append(c.report.Warnings, warnings...)

	// While the agent's procfs is still there.
	if !c.inUserNamespace() {
		if err := setOOMScoreAdj(p.OOMScoreAdj); err != nil {
			return err
		}
	}
	if _, err := unix.Setsid(); err != nil {
		return os.NewSyscallError("setsid", err)
	}
	master := -1
	if c.kind == InitArg {
		master, err = c.enterNew(fds)
	} else {
		master, err = c.enterExisting(fds)
	}
	if err != nil {
		return err
	}
	if err := c.becomeUser(); err != nil {
		return err
	}
	c.report.Prepared = true
	if master < 0 {
		return Send(c.socket, &c.report)
	}
	err = Send(c.socket, &c.report, master)
	unix.Close(master)
	return err
}

// inUserNamespace tells whether the agent has done what this process may not do
// in its user namespace: see Assist.
func (c *child) inUserNamespace() bool { return c.cfg.Namespaces&unix.CLONE_NEWUSER != 0 }

// enterNew makes the container: namespaces, root file system, names.
func (c *child) enterNew(fds []int) (master int, err error) {
	unshare := c.cfg.Namespaces &^ (unix.CLONE_NEWPID | unix.CLONE_NEWUSER)
	if err := unix.Unshare(unshare); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if linux := c.cfg.Spec.Linux; linux != nil {
		if err := c.setTimeOffsets(linux.TimeOffsets); err != nil {
			return -1, err
		}
	}
	unix.Umask(0)
	sysfs := -1
	if c.inUserNamespace() {
		if len(fds) < 1 {
			return -1, errors.New("no sysfs to mount")
		}
		sysfs, fds = fds[0], fds[1:]
	}
	root, err := buildRootfs(&c.cfg, sysfs)
	if err != nil {
		return -1, err
	}
	if err := root.enter(); err != nil {
		return -1, err
	}
	master, err = c.stdio(fds)
	if err != nil {
		return -1, err
	}
	if master >= 0 {
		if err := bindConsole(master); err != nil {
			return -1, err
		}
	}
	unix.Umask(0o022)
	// As runc does for the first process, and only for it.
	if err := os.MkdirAll(c.cfg.Process.Cwd, 0o755); err != nil {
		return -1, fmt.Errorf("create cwd %s: %w", c.cfg.Process.Cwd, err)
	}
	if name := c.cfg.Spec.Hostname; name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return -1, fmt.Errorf("set hostname %q: %w", name, err)
		}
	}
	if name := c.cfg.Spec.Domainname; name != "" {
		if err := unix.Setdomainname([]byte(name)); err != nil {
			return -1, fmt.Errorf("set domainname %q: %w", name, err)
		}
	}
	if linux := c.cfg.Spec.Linux; linux != nil {
		sysctls := linux.Sysctl
		if root.userNamespace {
			sysctls, _ = splitSysctls(sysctls)
		}
		warnings, err := writeSysctls(root.sys, sysctls)
		if err != nil {
			return -1, err
		}
		c.report.Warnings = append(c.report.Warnings, warnings...)
	}
	return master, root.seal()
}

// enterExisting joins the namespaces of a running container, whose pidfd is
// the first descriptor. In its PID, user and time namespace the child was born.
func (c *child) enterExisting(fds []int) (master int, err error) {
	if len(fds) < 1 {
		return -1, errors.New("no pidfd to join")
	}
	pidfd := fds[0]
	// A thread that shares its root directory with others cannot change it.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(pidfd, c.cfg.Namespaces&^(unix.CLONE_NEWPID|unix.CLONE_NEWUSER|unix.CLONE_NEWTIME)); err != nil {
		return -1, fmt.Errorf("join the container: %w", os.NewSyscallError("setns", err))
	}
	unix.Close(pidfd)
	unix.Umask(0o022)
	if affinity := c.cfg.Process.ExecCPUAffinity; affinity != nil {
		if err := setAffinity(affinity.Initial); err != nil {
			return -1, err
		}
	}
	return c.stdio(fds[1:])
}

// stdio puts the process's streams on descriptors 0 to 2: three that were
// passed, or a new terminal, whose master it returns.
func (c *child) stdio(fds []int) (master int, err error) {
	p := c.cfg.Process
	if p.Terminal {
		master, err := openTerminal(p.User.UID, &c.cfg)
		if err != nil {
			return -1, err
		}
		return master, controlTerminal()
	}
	if len(fds) != 3 {
		return -1, fmt.Errorf("%d stdio descriptors", len(fds))
	}
	if !c.inUserNamespace() {
		if err := giveStreams(fds, p.User.UID, p.User.GID); err != nil {
			return -1, err
		}
	}
	for i, fd := range fds {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return -1, os.NewSyscallError("dup3", err)
		}
		unix.Close(fd)
	}
	return -1, nil
}

// giveStreams makes the user the owner of the streams that are pipes, so that
// the process can open /dev/stdout and the like. It is not possible for
// /dev/null, nor needed.
func giveStreams(fds []int, uid, gid uint32) error {
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFIFO {
			if err := unix.Fchown(fd, int(uid), int(gid)); err != nil {
				return os.NewSyscallError("fchown", err)
			}
		}
	}
	return nil
}

// becomeUser takes on the attributes of the process and finds its executable.
func (c *child) becomeUser() error {
	p := c.cfg.Process
	if err := setScheduling(p); err != nil {
		return err
	}
	if c.cfg.Spec.Linux != nil {
		if err := setPersonality(c.cfg.Spec.Linux.Personality); err != nil {
			return err
		}
	}
	if affinity := p.ExecCPUAffinity; affinity != nil && c.kind == ExecArg {
		if err := setAffinity(affinity.Final); err != nil {
			return err
		}
	}
	if err := setRlimits(p.Rlimits); err != nil {
		return err
	}
	c.env = environment(p.Env, p.User.UID)
	// Whatever is open stays behind at execve.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	} else if c.filter != nil {
		// Without no_new_privs this takes CAP_SYS_ADMIN, which goes next.
		if err := c.filter.Load(); err != nil {
			return err
		}
		c.filter = nil
	}
	if err := dropBounding(c.caps.bounding); err != nil {
		return err
	}
	// Once with each permission: a directory only root can enter, and one on
	// a file system that does not know root.
	chdir := unix.Chdir(p.Cwd)
	if err := setUser(&p.User); err != nil {
		return err
	}
	if err := setCaps(c.caps); err != nil {
		return err
	}
	if chdir == unix.EACCES || chdir == unix.EPERM {
		chdir = unix.Chdir(p.Cwd)
	}
	if chdir != nil {
		return &Failure{
			Reason:  protocol.Failure_SETUP,
			Errno:   asErrno(chdir),
			Message: fmt.Sprintf("chdir to cwd (%q) set in config.json failed: %v", p.Cwd, chdir),
		}
	}
	var err error
	c.path, err = lookPath(p.Args[0], c.env)
	return err
}

func asErrno(err error) unix.Errno {
	var errno unix.Errno
	errors.As(err, &errno)
	return errno
}

// execute runs what is left between the start of the container and execve.
func (c *child) execute(release *Go) error {
	// Hooks are programs of the container's file system: the filter is for them, too.
	if c.filter != nil {
		if err := c.filter.Load(); err != nil {
			return err
		}
	}
	if err := c.startHooks(release.State); err != nil {
		return err
	}
	err := unix.Exec(c.path, c.cfg.Process.Args, c.env)
	return executableError(c.path, err)
}

func (c *child) startHooks(state []byte) error {
	if c.kind != InitArg || c.cfg.Spec.Hooks == nil {
		return nil
	}
	for i := range c.cfg.Spec.Hooks.StartContainer {
		hook := &c.cfg.Spec.Hooks.StartContainer[i]
		if err := runHook(hook, state); err != nil {
			return fmt.Errorf("error running startContainer hook #%d: %s: %w", i, hook.Path, err)
		}
	}
	return nil
}
