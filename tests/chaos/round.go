package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limit bounds every command and every wait: an emulated host is slow, but
// nothing takes that long.
const limit = 3 * time.Minute

// id is every container's: what a round leaves would be in the way of the next.
const id = "chaos"

// step is a command that is disturbed, after others that are not.
type step struct {
	name   string
	before []string // names of steps
	args   []string // of runv
	leaves bool     // the command ends while the container goes on
}

var steps = []step{
	{name: "create", args: []string{"create", "--pid-file", "PIDFILE", "--bundle", "BUNDLE", id}, leaves: true},
	{name: "start", before: []string{"create"}, args: []string{"start", id}, leaves: true},
	{name: "run", args: []string{"run", "--bundle", "BUNDLE", id}},
	{name: "detach", args: []string{"run", "--detach", "--bundle", "BUNDLE", id}, leaves: true},
	{name: "exec", before: []string{"detach"}, args: []string{"exec", id, "sleep", "1"}, leaves: true},
	{name: "execd", before: []string{"detach"}, args: []string{"exec", "--detach", "--pid-file", "PIDFILE", id, "sleep", "1000"}, leaves: true},
	{name: "kill", before: []string{"detach"}, args: []string{"kill", id, "KILL"}, leaves: true},
	{name: "pause", before: []string{"detach"}, args: []string{"pause", id}, leaves: true},
	{name: "delete", before: []string{"detach"}, args: []string{"delete", "--force", id}},
}

// Whom to kill.
const (
	command = "command" // runv
	parent  = "parent"  // who called it
	machine = "vm"      // the VM process
	carrier = "carrier" // the process that stands for a detached exec
)

var victims = []string{command, parent, machine, carrier}

func stepNamed(name string) step {
	return steps[slices.IndexFunc(steps, func(s step) bool { return s.name == name })]
}

// world is where the containers are.
type world struct{ runv, root, bundle string }

func (w *world) args(s step) []string {
	args := []string{"--root", w.root}
	for _, arg := range s.args {
		switch arg {
		case "BUNDLE":
			arg = w.bundle
		case "PIDFILE":
			arg = filepath.Join(w.bundle, "pid")
		}
		args = append(args, arg)
	}
	return args
}

// call is a command that runs, below a shell that is its parent.
type call struct {
	shell *exec.Cmd
	done  chan struct{} // closed when the shell has ended
	pid   int           // of runv
}

// call starts a command. Its output goes to a file, whose readers nobody waits
// for.
func (w *world) call(s step) (*call, error) {
	out, err := os.OpenFile(filepath.Join(filepath.Dir(w.bundle), "output"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r, pid, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c := &call{done: make(chan struct{})}
	// The shell tells the pid, and waits.
	c.shell = exec.Command("sh", append([]string{"-c", `"$@" 3>&- & echo $! >&3; exec 3>&-; wait $!`, "sh", w.runv}, w.args(s)...)...)
	c.shell.Stdout, c.shell.Stderr = out, out
	c.shell.ExtraFiles = []*os.File{pid}
	err = c.shell.Start()
	pid.Close()
	if err != nil {
		return nil, err
	}
	go func() { c.shell.Wait(); close(c.done) }()
	if _, err := fmt.Fscan(r, &c.pid); err != nil {
		return nil, fmt.Errorf("%s: no pid: %w", s.name, err)
	}
	return c, nil
}

// end waits for the command, whoever its parent is now, and for the shell.
func (c *call) end() error {
	deadline := time.Now().Add(limit)
	for alive(c.pid) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the command (pid %d) does not end", c.pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	<-c.done
	return nil
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// undisturbed runs a command to its end.
func (w *world) undisturbed(s step) error {
	out, err := w.output(s)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", s.name, err, out)
	}
	return nil
}

func (w *world) output(s step) (string, error) {
	file := filepath.Join(filepath.Dir(w.bundle), "output")
	out, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.Command(w.runv, w.args(s)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	hung := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	if !hung.Stop() {
		err = fmt.Errorf("did not end within %v", limit)
	}
	text, _ := os.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}

// measure does every step once without killing anything.
func (w *world) measure() (map[string]time.Duration, error) {
	durations := make(map[string]time.Duration)
	for _, name := range []string{"create", "start", "exec", "execd", "pause", "kill", "delete", "detach", "delete"} {
		began := time.Now()
		if err := w.undisturbed(stepNamed(name)); err != nil {
			return nil, err
		}
		durations[name] = time.Since(began)
	}
	// It lasts until somebody ends it; until the container runs as long as this:
	durations["run"] = durations["detach"]
	return durations, w.gone()
}

// round does what was chosen, and then has the container deleted. It tells
// whether the victim was alive to be killed.
func (w *world) round(c choice) (killed bool, err error) {
	for _, name := range c.step.before {
		if err := w.undisturbed(stepNamed(name)); err != nil {
			return false, err
		}
	}
	call, err := w.call(c.step)
	if err != nil {
		return false, err
	}
	time.Sleep(c.after)
	killed = w.kill(call, c.victim)
	if !killed && !c.step.leaves && c.step.name != "delete" {
		// Nothing else would end it.
		killed = w.kill(call, command)
	}
	if !c.step.leaves && c.victim == parent {
		// The command goes on without its parent: delete has to end it.
		err = w.delete()
	} else if c.again > 0 {
		again, err := w.call(stepNamed("delete"))
		if err != nil {
			return killed, err
		}
		time.Sleep(c.again)
		syscall.Kill(again.pid, unix.SIGKILL)
		if err := again.end(); err != nil {
			return killed, err
		}
	}
	return killed, errors.Join(err, w.delete(), call.end(), w.delete(), w.gone())
}

// kill kills the victim; false: there is none any more.
func (w *world) kill(c *call, victim string) bool {
	var pids []int
	switch victim {
	case command:
		pids = []int{c.pid}
	case parent:
		pids = []int{c.shell.Process.Pid}
	case machine:
		pids = w.processes("vm")
	case carrier:
		pids = w.processes("exec-process")
	}
	killed := false
	for _, pid := range pids {
		if alive(pid) && syscall.Kill(pid, unix.SIGKILL) == nil {
			killed = true
		}
	}
	return killed
}

// delete has to work, whatever happened.
func (w *world) delete() error { return w.undisturbed(stepNamed("delete")) }

// gone checks that the container is not known any more.
func (w *world) gone() error {
	out, err := w.output(step{name: "state", args: []string{"state", id}})
	if err == nil || !strings.Contains(out, "does not exist") {
		return fmt.Errorf("state after delete: %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(w.root, id)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s after delete: %v", filepath.Join(w.root, id), err)
	}
	return nil
}

// cleanUp makes room for the next round after a failed one.
func (w *world) cleanUp() {
	for _, kind := range []string{"vm", "exec-process"} {
		for _, pid := range w.processes(kind) {
			syscall.Kill(pid, unix.SIGKILL)
		}
	}
	_, _ = w.output(stepNamed("delete"))
}
