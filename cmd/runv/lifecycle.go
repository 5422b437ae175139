package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/attach"
	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/hooks"
	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/spec"
)

// creation is a container in the making, and then made.
type creation struct {
	g    *globals
	opts createOptions
	plan *spec.Plan

	container *container.Container
	process   *sandbox.Process
	signals   chan os.Signal
	terminal  *terminal // nil: the caller's stdio as it is
}

type createOptions struct {
	id, bundle, consoleSocket string
	announcement
	// foreground: this process stays and carries the terminal.
	foreground bool
	// start: the container is started as soon as it is created.
	start bool
	// image is the directory of the checkpoint that it goes on from.
	image string
}

const (
	// killTimeout bounds the wait for a killed VM process to be gone, where what
	// it holds cannot be released before. Its memory goes back first, which takes
	// long on a busy host.
	killTimeout = time.Minute

	// killWait bounds it where nothing depends on it.
	killWait = 10 * time.Second

	// silence is how long a wait may take without a word about it.
	silence = 2 * time.Second
)

// plan reads and validates the configuration and looks at what can be seen
// without making anything.
func (g *globals) plan(o createOptions) (*spec.Plan, error) {
	if err := container.CheckID(o.id); err != nil {
		return nil, err
	}
	s, err := spec.Load(o.bundle)
	if err != nil {
		return nil, err
	}
	host, err := g.hostFacts()
	if err != nil {
		return nil, err
	}
	plan, err := spec.New(s, o.bundle, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(o.bundle, spec.ConfigName), err)
	}
	if opened := plan.Network.Opened(); len(opened) > 0 && !g.openNetwork {
		return nil, fmt.Errorf("annotation %s: opens to the container what is closed by default, and an image may have brought it: the operator allows it with --open-network, or RUNV_OPEN_NETWORK=1 in the engine's environment", opened[0])
	}
	for _, warning := range plan.Warnings {
		g.log.Warn(warning)
	}
	if o.image != "" {
		return plan, fitsImage(plan, o.image)
	}
	return plan, nil
}

func (g *globals) hostFacts() (spec.Host, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return spec.Host{}, os.NewSyscallError("sysinfo", err)
	}
	return spec.Host{
		CPUs:          runtime.NumCPU(),
		MemoryBytes:   uint64(info.Totalram) * uint64(info.Unit),
		SystemdCgroup: g.systemdCgroup,
	}, nil
}

// checkRootfs gives a clear reason before anything is made.
func checkRootfs(path string) error {
	f, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err == nil {
		_, err = f.Readdirnames(1)
		f.Close()
		if err != nil && err.Error() == "EOF" {
			err = nil
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("root.path %s: no such directory: unpack a root file system there", path)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("root.path %s: not a directory", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("root.path %s: permission denied: it must be readable by root", path)
	}
	return fmt.Errorf("root.path %s: %w", path, err)
}

// create creates the container. If it fails, nothing is left. On success the
// container is locked.
func (g *globals) create(o createOptions) (_ *creation, err error) {
	bundle, err := filepath.Abs(o.bundle)
	if err != nil {
		return nil, err
	}
	o.bundle = bundle
	plan, err := g.plan(o)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root privileges: rootless containers are not supported: use sudo")
	}
	plan.RequireCage = plan.RequireCage || g.cage == spec.CageRequire
	lacks, err := cage.Check(plan.RequireCage)
	if err != nil {
		return nil, err
	}
	for _, layer := range lacks {
		g.log.Warn("a layer around the VM process is missing on this host: " + layer + ": see runv check")
	}
	if err := checkRootfs(plan.Rootfs); err != nil {
		return nil, err
	}
	if err := sandbox.CheckNetwork(plan); err != nil {
		return nil, err
	}
	kvm, err := openKVM()
	if err != nil {
		return nil, err
	}
	defer kvm.Close()
	g.trace("planned")

	cr := &creation{g: g, opts: o, plan: plan, signals: make(chan os.Signal, 64)}
	signal.Notify(cr.signals, forwarded()...)
	ignoreSIGPIPE()
	if cr.terminal, err = openTerminal(terminalOptions{
		wanted: plan.Terminal, size: plan.Spec.Process.ConsoleSize, socket: o.consoleSocket, foreground: o.foreground,
	}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cr.terminal.Close()
		}
	}()
	if cr.container, err = g.store().Create(o.id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cr.undo()
		}
	}()
	if err := cr.launch(kvm); err != nil {
		return nil, err
	}
	if err := cr.bootstrap(); err != nil {
		return nil, err
	}
	return cr, nil
}

// launch makes the state, the cgroup, the socket and the VM process. The state
// is written before each thing that would have to be removed.
func (cr *creation) launch(kvm *os.File) error {
	self, err := container.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	path := sandbox.CgroupPath(cr.plan.Cgroup, cr.opts.id)
	cr.container.State = container.State{
		ID:          cr.opts.id,
		Bundle:      cr.opts.bundle,
		Rootfs:      cr.plan.Rootfs,
		Annotations: cr.plan.Spec.Annotations,
		Created:     time.Now().UTC(),
		Status:      specs.StateCreating,
		Creator:     self,
		Hooks:       specs.Hooks{Poststart: cr.plan.Hooks.Poststart, Poststop: cr.plan.Hooks.Poststop},
		Machine:     cr.plan.Machine,
		Limits:      spec.Limits(cr.plan.Spec.Linux.Resources),
	}
	if !cr.plan.Cgroup.Systemd {
		cr.container.State.CgroupPlanned = path
	}
	if err := cr.container.Save(); err != nil {
		return err
	}
	cr.g.trace("state written")
	cgroup, err := cr.cgroupfs(path)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	agent, err := cr.container.ListenAgent()
	if err != nil {
		return err
	}
	defer agent.Close()
	stdin, stdout, stderr := os.Stdin, os.Stdout, os.Stderr
	if slave := cr.terminal.Slave(); slave != nil {
		stdin, stdout, stderr = slave, slave, slave
	}
	cr.process, err = sandbox.Start(sandbox.Options{
		ID:         cr.opts.id,
		Namespaces: cr.plan.Namespaces,
		Binds:      cr.plan.Binds,
		Cgroup:     cgroup,
		IOPriority: cr.plan.IOPriority,
		Stdin:      stdin, Stdout: stdout, Stderr: stderr,
		ControlTTY: cr.terminal.Slave() != nil,
		Agent:      agent,
		KVM:        kvm,
		Log:        cr.g.logFile,
	})
	if err != nil {
		return err
	}
	cr.g.trace("VM process born")
	if cr.container.State.Process, err = container.FindProcess(cr.process.Pid); err != nil {
		return err
	}
	if err := cr.container.Save(); err != nil {
		return err
	}
	return cr.scope(path)
}

// cgroupfs makes the cgroup at path, into which the VM process will be born; nil
// if there is none to make.
func (cr *creation) cgroupfs(path string) (*sandbox.Cgroup, error) {
	if cr.plan.Cgroup.Systemd {
		return nil, nil
	}
	// Not ours before it is known to be free: see CreateCgroup.
	cgroup, err := sandbox.CreateCgroup(cr.plan.Cgroup, path)
	if err != nil || cgroup == nil {
		return nil, err
	}
	cr.container.State.Cgroup = path
	return cgroup, cr.container.Save()
}

// scope has systemd take the VM process, which does nothing yet, into its scope.
func (cr *creation) scope(path string) error {
	if !cr.plan.Cgroup.Systemd {
		return nil
	}
	if path == "" {
		return errors.New("--systemd-cgroup: no cgroup v2 is mounted on /sys/fs/cgroup")
	}
	if err := sandbox.CheckFree(path); err != nil {
		return err
	}
	unit := sandbox.UnitName(cr.plan.Cgroup, cr.opts.id)
	cr.container.State.Cgroup, cr.container.State.Unit = path, unit
	if err := cr.container.Save(); err != nil {
		return err
	}
	made, err := sandbox.StartScope(cr.plan.Cgroup, unit, path, cr.process.Pid)
	if !made {
		cr.container.State.Cgroup, cr.container.State.Unit = "", ""
		err = errors.Join(err, cr.container.Save())
	}
	return err
}

// bootstrap has the VM process create the container.
func (cr *creation) bootstrap() error {
	if err := cr.createRuntimeHooks(); err != nil {
		return err
	}
	// The VM process has no environment to inherit.
	for i := range cr.plan.Hooks.CreateContainer {
		if hook := &cr.plan.Hooks.CreateContainer[i]; hook.Env == nil {
			hook.Env = os.Environ()
		}
	}
	networks, err := sandbox.HostNetworks()
	if err != nil {
		return err
	}
	stop := forward(cr.signals, cr.process)
	cold, err := cr.process.Create(&sandbox.Bootstrap{
		ID:           cr.opts.id,
		Plan:         cr.plan,
		State:        cr.container.State.As(specs.StateCreating),
		Kernel:       cr.g.kernel,
		Initrd:       cr.g.initrd,
		Start:        cr.opts.start,
		Templates:    cr.g.templateDir(cr.plan),
		Image:        cr.opts.image,
		HostNetworks: networks,
		Debug:        cr.g.debug,
		LogJSON:      cr.g.logFormat == "json",
	})
	stop()
	if err != nil {
		return cr.explain(err)
	}
	if cold != nil {
		cr.g.coldBooted(cold, cr.plan.Machine)
	}
	cr.g.trace("created")
	cr.container.State.Status = specs.StateCreated
	if !cr.opts.start { // else it is running in a moment
		if err := errors.Join(cr.limitProcessors(), cr.container.Save()); err != nil {
			return err
		}
	}
	return cr.opts.make(cr.process.Pid)
}

// createRuntimeHooks runs the hooks for which the namespaces exist, and nothing
// in them yet. A signal that would end the container ends them.
func (cr *creation) createRuntimeHooks() error {
	h := &cr.plan.Hooks
	//lint:ignore SA1019 deprecated, still part of the specification
	prestart := h.Prestart
	if len(prestart) == 0 && len(h.CreateRuntime) == 0 {
		return nil
	}
	background := context.Background()
	ctx, stop := attach.Interruptible(background, background, cr.signals, nil)
	defer stop()
	state := cr.container.State.As(specs.StateCreating)
	if err := hooks.Run(ctx, "prestart", prestart, state, state.Bundle); err != nil {
		return err
	}
	return hooks.Run(ctx, "createRuntime", h.CreateRuntime, state, state.Bundle)
}

// started waits until the container's process runs.
func (cr *creation) started() error {
	if err := cr.process.Started(); err != nil {
		return cr.explain(err)
	}
	cr.g.trace("started")
	if err := cr.limitProcessors(); err != nil {
		return err
	}
	return cr.g.started(cr.container)
}

// limitProcessors sets the limit on processor time, when all that is to be done
// before the workload is. One that has ended already needs none.
func (cr *creation) limitProcessors() error {
	s := &cr.container.State
	err := sandbox.LimitProcessors(cr.plan.Cgroup, s.Cgroup, s.Unit)
	if err != nil && !s.Process.Alive() {
		return nil
	}
	return err
}

// started records that the container's process runs.
func (g *globals) started(c *container.Container) error {
	c.State.Status = specs.StateRunning
	if err := c.Save(); err != nil {
		return err
	}
	hooks.RunAll(context.Background(), "poststart", c.State.Hooks.Poststart, c.State.As(specs.StateRunning), g.warnHook)
	return nil
}

// warnHook reports a hook whose failure changes nothing.
func (g *globals) warnHook(err error) { g.log.Warn(err.Error()) }

// explain adds to an error how the VM process ended, if it did so without a
// word, and the exit status it asks for.
func (cr *creation) explain(err error) error {
	var failure *sandbox.Failure
	if errors.As(err, &failure) {
		return &exitError{status: failure.Status, err: err}
	}
	if !sandbox.Died(err) {
		return err
	}
	state, waitErr := cr.process.Wait()
	if waitErr != nil {
		return err
	}
	cr.container.State.Process = container.Process{}
	ws, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && ws.Signaled() && ws.Signal() == unix.SIGSYS:
		return cage.ErrKilled
	case ok && ws.Signaled():
		return fmt.Errorf("%w: killed by signal %v", err, ws.Signal())
	}
	return fmt.Errorf("%w with exit status %d", err, state.ExitCode())
}

// forward passes the signals that this process gets on to another, until stop is
// called.
func forward(signals <-chan os.Signal, to interface{ Signal(os.Signal) error }) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case s := <-signals:
				_ = to.Signal(s) // it may have ended
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// ignoreSIGPIPE has a write to a closed pipe fail instead of killing. Unlike with
// signal.Ignore, hooks and other children get the signal's default action.
func ignoreSIGPIPE() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// forwarded are the signals for the container. SIGCHLD and SIGURG are this
// process's own, SIGPIPE is ignored, and the rest cannot be caught.
func forwarded() []os.Signal {
	list := []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCONT, unix.SIGTSTP, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	const realtimeMin, realtimeMax = 34, 64
	for n := realtimeMin; n <= realtimeMax; n++ {
		list = append(list, syscall.Signal(n))
	}
	return list
}

// undo removes a container that was not created.
func (cr *creation) undo() {
	if cr.process != nil {
		_ = cr.process.Kill() // it may have ended
		_, _ = cr.process.Wait()
		cr.process.Release()
	}
	if err := cr.destroy(); err != nil {
		cr.g.log.Error("clean up", "err", err)
	}
}

func (cr *creation) destroy() error { return cr.g.destroy(cr.container) }

// destroy removes what a container has on the host. No process of it may be
// left that is not in its cgroup.
func (g *globals) destroy(c *container.Container) error {
	err := sandbox.StopScope(c.State.Unit)
	if err == nil {
		err = sandbox.RemoveCgroup(c.State.Cgroup)
	}
	if err == nil && c.State.Cgroup == "" {
		err = sandbox.DropCgroup(c.State.CgroupPlanned)
	}
	if err != nil {
		return errors.Join(err, c.Unlock())
	}
	hooks.RunAll(context.Background(), "poststop", c.State.Hooks.Poststop, c.State.As(specs.StateStopped), g.warnHook)
	return c.Remove()
}

// waitForwarding waits for a child, passes signals on to it, and has its exit
// status; with cage.ErrKilled, too.
func waitForwarding(child *os.Process, signals <-chan os.Signal) (int, error) {
	stop := forward(signals, child)
	state, err := child.Wait()
	stop()
	if err != nil {
		return 0, err
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		if ws.Signal() == unix.SIGSYS {
			err = cage.ErrKilled
		}
		return 128 + int(ws.Signal()), err
	}
	return state.ExitCode(), nil
}

// writePIDFile replaces the file as a whole: whoever waits for it reads a pid.
func writePIDFile(path string, pid int) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(temp, fmt.Appendf(nil, "%d", pid), 0o644); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}
