package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/attach"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/logging"
	"runv.dev/runv/internal/sandbox"
)

// execution is one process that exec runs, for this process or for the one that
// carries it in the background.
type execution struct {
	Root     string            `json:"root"`
	ID       string            `json:"id"`
	ExecID   string            `json:"execID"`
	VM       container.Process `json:"vm"`
	Process  []byte            `json:"process"` // OCI process, JSON
	Terminal bool              `json:"terminal,omitempty"`
	Cgroup   string            `json:"cgroup,omitempty"`

	Debug   bool `json:"debug,omitempty"`
	Log     bool `json:"log,omitempty"` // there is execLogFD
	LogJSON bool `json:"logJSON,omitempty"`
}

// run runs the process with this process's stdio, calls started when it runs,
// and has its exit status. Should started fail, the process is killed.
func (x *execution) run(ctx context.Context, log *slog.Logger, signals <-chan os.Signal, started func() error) (int, error) {
	agent, err := client.New(ctx, func(ctx context.Context, port uint32) (net.Conn, error) {
		return container.NewStore(x.Root).DialAgent(ctx, x.ID, port)
	})
	if err != nil {
		return 0, x.explain(err)
	}
	defer agent.Close()
	trace := func(stage string) { traceVerb(log, stage) }
	trace("agent reached")
	p, err := attach.New(attach.Options{
		Client: agent, ID: x.ID, ExecID: x.ExecID, Terminal: x.Terminal, Log: log, Guest: ctx, OrKill: true,
	})
	if err != nil {
		return 0, err
	}
	defer p.Streams().Close()
	// The streams and the request travel at the same time.
	opened := make(chan error, 1)
	go func() { opened <- agent.OpenStdio(ctx, p.Streams()) }()
	created, err := agent.Exec(ctx, client.ExecOptions{
		ContainerID: x.ID, ExecID: x.ExecID, Process: x.Process, Stdio: p.Streams(), Cgroup: x.Cgroup, OrKill: true,
	})
	openErr := <-opened
	if err != nil {
		return 0, x.explain(err)
	}
	for _, warning := range created.Warnings {
		log.Warn(warning)
	}
	trace("process started")
	if err := errors.Join(openErr, started()); err != nil {
		return 0, errors.Join(err, agent.Signal(ctx, x.ID, x.ExecID, unix.SIGKILL))
	}
	p.Start()
	exit, err := p.Wait(signals)
	if err != nil {
		if errors.Is(err, client.ErrAgentLost) {
			if ended, _ := x.VM.Wait(vmExitTimeout); ended {
				// And with it all processes of the container.
				return 128 + int(unix.SIGKILL), nil
			}
		}
		return 0, err
	}
	trace("process ended")
	if err := p.Drain(signals); err != nil {
		log.Warn("drain", "err", err)
	}
	trace("output passed on")
	return exit.Status(), nil
}

// vmExitTimeout is how long a VM process may take to end after its guest.
const vmExitTimeout = 2 * time.Second

// explain gives the error for a process that was not started, with the exit
// status it asks for.
func (x *execution) explain(err error) error {
	var failed *client.Error
	switch {
	case errors.Is(err, client.ErrBadState) || !x.VM.Alive():
		err = errNotRunning
	case errors.As(err, &failed):
		err = failed // without the name of the request, which is here already
	}
	err = fmt.Errorf("cannot exec in %s: %w", x.ID, err)
	if status, ok := client.ExitStatus(err); ok {
		return &exitError{status: status, err: err}
	}
	return err
}

// execReport is what the carrying process tells when the process runs or why it
// does not.
type execReport struct {
	Error  string `json:"error,omitempty"`
	Status int    `json:"status,omitempty"` // what the runtime exits with, 0: unspecific
}

// Descriptors of the carrying process.
const (
	execSyncFD = 3
	execLogFD  = 4
)

// execArg starts the carrying process.
const execArg = "exec-process"

// execDetached has a process of its own run x, with slave as stdio if there is
// one, and waits for it unless the caller wants to go on.
func (g *globals) execDetached(x *execution, o execOptions, slave *os.File) error {
	x.Debug, x.Log, x.LogJSON = g.debug, g.logFile != nil, g.logFormat == "json"
	if err := sandbox.CloseOnExec(); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	sync, theirs := os.NewFile(uintptr(pair[0]), "sync"), os.NewFile(uintptr(pair[1]), "sync")
	defer sync.Close()
	defer theirs.Close()
	attr := &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs, g.logFile},
		// A session of its own: the signals of the caller's terminal are not
		// for a process in the background.
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if slave != nil {
		attr.Files[0], attr.Files[1], attr.Files[2] = slave, slave, slave
		attr.Sys.Setctty = true
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	child, err := os.StartProcess("/proc/self/exe", []string{"runv", execArg, x.ID}, attr)
	if err != nil {
		return fmt.Errorf("start the process that carries the exec: %w", err)
	}
	theirs.Close()
	var report execReport
	err = json.NewEncoder(sync).Encode(x)
	if err == nil {
		err = json.NewDecoder(sync).Decode(&report)
	}
	if err != nil || report.Error != "" {
		_ = child.Kill() // it ends by itself, unless it is stuck
		_, _ = child.Wait()
	}
	switch {
	case report.Error != "" && report.Status != 0:
		return &exitError{status: report.Status, err: errors.New(report.Error)}
	case report.Error != "":
		return errors.New(report.Error)
	case err != nil:
		return fmt.Errorf("the process that carries the exec died: %w", err)
	}
	if err := o.make(child.Pid); err != nil {
		// With it goes the process in the guest.
		return errors.Join(err, child.Kill())
	}
	if o.detach {
		return child.Release()
	}
	status, err := waitForwarding(child, signals)
	if err != nil {
		return err
	}
	return withStatus(status)
}

// execMain is the carrying process; it has the exit status of the process.
func execMain() int {
	signals := attach.CatchSignals()
	unix.CloseOnExec(execSyncFD)
	sync := os.NewFile(execSyncFD, "sync")
	var x execution
	if err := json.NewDecoder(sync).Decode(&x); err != nil {
		fmt.Fprintf(os.Stderr, "runv: %s is started by exec, not by hand: %v\n", execArg, err)
		return statusNotStarted
	}
	// Without a log file stderr is the process's own.
	log := slog.New(slog.DiscardHandler)
	if x.Log {
		unix.CloseOnExec(execLogFD)
		level := slog.LevelInfo
		if x.Debug {
			level = slog.LevelDebug
		}
		log = logging.New(os.NewFile(execLogFD, "log"), x.LogJSON, level)
	}
	running := false
	status, err := x.run(context.Background(), log, signals, func() error {
		running = true
		return errors.Join(json.NewEncoder(sync).Encode(execReport{}), sync.Close())
	})
	if err == nil {
		return status
	}
	if running {
		log.Error(err.Error())
		return statusNotStarted
	}
	report := execReport{Error: err.Error()}
	var exit *exitError
	if asExit(err, &exit) {
		report.Status = exit.status
	}
	if err := json.NewEncoder(sync).Encode(report); err != nil {
		log.Error("report to the runtime", "err", err)
	}
	return statusNotStarted
}
