package guest

import (
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ended is how a child ended, and when.
type ended struct {
	status unix.WaitStatus
	at     time.Time
}

// reaper waits for every child of the agent: those it started and, as it is
// process 1, all orphans. Nothing else in the agent may wait for a child.
type reaper struct {
	mu sync.Mutex
	// Children somebody waits for. Start holds mu until the child is in here.
	children map[int]chan ended
}

func newReaper() *reaper {
	return &reaper{children: make(map[int]chan ended)}
}

// run reaps until stop is closed.
func (r *reaper) run(stop <-chan struct{}) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		r.reap()
		select {
		case <-signals:
		case <-stop:
			return
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if !status.Exited() && !status.Signaled() {
			continue
		}
		if done, ok := r.children[pid]; ok {
			done <- ended{status: status, at: time.Now()}
			delete(r.children, pid)
		}
	}
}

// start starts a process with fork; done gets one value when it has ended.
func (r *reaper) start(fork func() (int, error)) (pid int, done <-chan ended, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = fork()
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan ended, 1)
	r.children[pid] = ch
	return pid, ch, nil
}

// signal sends a signal to a child that was started and not reaped yet, so that
// the number cannot be another process's.
func (r *reaper) signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.children[pid]; !ok {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}
