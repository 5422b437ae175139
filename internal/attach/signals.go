package attach

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// relayed are the signals that go to the process. The others cannot
// be caught (KILL, STOP), are this process's own (SEGV and the like, CHLD), or
// belong to the Go runtime (URG, PROF); kill has another way for them.
func relayed() []os.Signal {
	list := []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM,
		unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	const realtimeMin, realtimeMax = 34, 64
	for n := realtimeMin; n <= realtimeMax; n++ {
		list = append(list, syscall.Signal(n))
	}
	return list
}

// CatchSignals starts to catch what is relayed. SIGPIPE is ignored: a write to a
// closed stdout is to fail, not to kill. It is caught, as what is ignored would
// be so in hooks too.
func CatchSignals() chan os.Signal {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ch := make(chan os.Signal, 64)
	signal.Notify(ch, relayed()...)
	return ch
}

// Ends tells whether a signal, by default, ends the process that gets it.
func Ends(s os.Signal) bool {
	switch s {
	case unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH:
		return false
	}
	return true
}

// Interruptible is a context that also ends with the guest, by a signal, and when
// abandoned, which may be nil, is closed. stop ends the watch for them.
func Interruptible(ctx, guest context.Context, signals <-chan os.Signal, abandoned <-chan struct{}) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-guest.Done():
				cancel(context.Cause(guest))
			case <-abandoned:
				cancel(ErrInterrupted)
			case s := <-signals:
				if Ends(s) {
					cancel(fmt.Errorf("%w by signal %v", ErrInterrupted, s))
				}
				continue
			case <-done:
			}
			return
		}
	}()
	return ctx, func() {
		close(done)
		<-ended
		cancel(nil)
	}
}
