package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/host/wire"
)

// quietTime is how long an output stream that outlives its command, held open
// by a background process, may be silent before the session ends without it.
const quietTime = 300 * time.Millisecond

// job is one command and its streams.
type job struct {
	session        uint32
	description    []byte // touched by the frame reader only
	stdin          *wire.Receiver
	stdout, stderr *wire.Sender

	mu      sync.Mutex
	process *os.Process // nil before start and after exit
	aborted bool
}

func newJob(conn *wire.Conn, session uint32) *job {
	return &job{
		session: session,
		stdin:   wire.NewReceiver(conn, session, wire.Stdin),
		stdout:  wire.NewSender(conn, session, wire.Stdout),
		stderr:  wire.NewSender(conn, session, wire.Stderr),
	}
}

func (j *job) output(stream uint8) *wire.Sender {
	if stream == wire.Stderr {
		return j.stderr
	}
	return j.stdout
}

// run returns when the command has exited and its output has been sent. An
// error means that it could not be started.
func (j *job) run(c wire.Command) (int, error) {
	defer j.release()
	if len(c.Args) == 0 {
		return exitFailed, errors.New("empty command")
	}
	if st, err := os.Stat(c.Dir); err != nil || !st.IsDir() {
		return exitFailed, fmt.Errorf("working directory %s does not exist inside the host", c.Dir)
	}
	path, err := lookPath(c)
	if err != nil {
		status := 127
		if errors.Is(err, fs.ErrPermission) {
			status = 126
		}
		return status, err
	}
	p, err := newPipes()
	if err != nil {
		return exitFailed, err
	}
	cmd := &exec.Cmd{
		Path: path, Args: c.Args, Env: c.Env, Dir: c.Dir,
		Stdin: p.child[0], Stdout: p.child[1], Stderr: p.child[2],
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = j.begin(cmd)
	for _, f := range p.child {
		f.Close()
	}
	if err != nil {
		p.close()
		return 126, err
	}

	go func() {
		// A command that closes its input early is no failure.
		_ = j.stdin.CopyTo(p.parent[0])
		p.parent[0].Close()
	}()
	exited := make(chan struct{})
	var outputs sync.WaitGroup
	outputs.Go(func() { copyOutput(j.stdout, p.parent[1], exited) })
	outputs.Go(func() { copyOutput(j.stderr, p.parent[2], exited) })
	state, err := j.wait(cmd)
	close(exited)
	outputs.Wait()
	unix.Sync() // what was written to a shared directory is there when the caller goes on
	if err != nil {
		return exitFailed, err
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return signalStatus(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

func (j *job) begin(cmd *exec.Cmd) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.aborted {
		return wire.ErrAborted
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	j.process = cmd.Process
	return nil
}

func (j *job) wait(cmd *exec.Cmd) (*os.ProcessState, error) {
	// Reap only after the process id was withdrawn from signal and abort.
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	j.mu.Lock()
	j.process = nil
	j.mu.Unlock()
	return cmd.Process.Wait()
}

// release frees the goroutines that still wait for the other side.
func (j *job) release() {
	j.stdin.Abort()
	j.stdout.Abort()
	j.stderr.Abort()
}

func (j *job) signal(n uint32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.process != nil && n > 0 && n <= 64 {
		// ESRCH only says that the group is gone already.
		_ = unix.Kill(-j.process.Pid, syscall.Signal(n))
	}
}

// abort kills the command and every process of its POSIX session.
func (j *job) abort() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.aborted = true
	if j.process != nil {
		for _, pid := range sessionMembers(j.process.Pid) {
			_ = unix.Kill(pid, unix.SIGKILL) // may have exited meanwhile
		}
	}
	j.release()
}

func sessionMembers(sid int) []int {
	pids := []int{sid}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != sid {
			if s, err := unix.Getsid(pid); err == nil && s == sid {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

type pipes struct{ parent, child [3]*os.File }

func newPipes() (*pipes, error) {
	p := new(pipes)
	for i := range p.parent {
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			return nil, err
		}
		p.parent[i], p.child[i] = r, w
		if i == 0 {
			p.parent[i], p.child[i] = w, r
		}
	}
	return p, nil
}

func (p *pipes) close() {
	for _, f := range append(p.parent[:], p.child[:]...) {
		if f != nil {
			f.Close()
		}
	}
}

// copyOutput sends everything written to r. Once the command has exited it
// does not wait longer than quietTime for processes left behind.
func copyOutput(s *wire.Sender, r *os.File, exited <-chan struct{}) {
	defer r.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-exited:
			r.SetReadDeadline(time.Now().Add(quietTime))
		case <-done:
		}
	}()
	buf := make([]byte, wire.MaxPayload)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// A deadline wins over data that is already there.
			n, err = readNow(r, buf)
		}
		if n > 0 {
			if _, werr := s.Write(buf[:n]); werr != nil {
				return // the session was aborted or the control stream is gone
			}
			select {
			case <-exited:
				r.SetReadDeadline(time.Now().Add(quietTime))
			default:
			}
		}
		if err != nil {
			_ = s.Close() // fails only with the control stream
			return
		}
	}
}

// readNow reads what a nonblocking file holds. Nothing is an error.
func readNow(r *os.File, buf []byte) (n int, err error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	rerr := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		return true
	})
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), errors.Join(err, rerr)
}

// lookPath finds the executable the way a shell with the command's environment
// and working directory would.
func lookPath(c wire.Command) (string, error) {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.Dir, path)
		}
		return path, executable(path)
	}
	var search string
	for _, kv := range c.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	found := fmt.Errorf("%s: command not found in PATH=%s", name, search)
	for _, dir := range filepath.SplitList(search) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.Dir, dir)
		}
		path := filepath.Join(dir, name)
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			found = err
		}
	}
	return "", found
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() || st.Mode()&0o111 == 0 {
		return &fs.PathError{Op: "exec", Path: path, Err: syscall.EACCES}
	}
	return nil
}
