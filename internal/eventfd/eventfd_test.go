package eventfd_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/eventfd"
)

func open(t *testing.T) *eventfd.EventFD {
	t.Helper()
	e, err := eventfd.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestSignalWait(t *testing.T) {
	e := open(t)
	for range 3 {
		if err := e.Signal(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Wait(); err != nil {
		t.Fatal(err)
	}
	// The three signals were one wake-up: the counter is at zero again.
	var b [8]byte
	if _, err := unix.Read(e.FD(), b[:]); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("read after Wait = %v, want EAGAIN", err)
	}
}

func TestWaitBlocks(t *testing.T) {
	e := open(t)
	done := make(chan error)
	go func() { done <- e.Wait() }()
	select {
	case err := <-done:
		t.Fatalf("Wait = %v before Signal", err)
	default:
	}
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCloseEndsWait(t *testing.T) {
	e := open(t)
	done := make(chan error)
	go func() { done <- e.Wait() }()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait = %v, want os.ErrClosed", err)
	}
	if err := e.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait after Close = %v, want os.ErrClosed", err)
	}
	if err := e.Signal(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Signal after Close = %v, want os.ErrClosed", err)
	}
}

// TestCloseUnwaited closes what the poller has never seen.
func TestCloseUnwaited(t *testing.T) {
	e := open(t)
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(e.FD()), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("F_GETFD after Close = %v, want EBADF", err)
	}
	for name, err := range map[string]error{"Wait": e.Wait(), "Signal": e.Signal(), "Close": e.Close()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close = %v, want os.ErrClosed", name, err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	e := open(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for e.Wait() == nil {
			}
		})
		wg.Go(func() {
			for e.Signal() == nil {
			}
		})
	}
	for range 1000 {
		if err := e.Signal(); err != nil {
			t.Error(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestDescriptorFlags(t *testing.T) {
	e := open(t)
	fd, err := unix.FcntlInt(uintptr(e.FD()), unix.F_GETFD, 0)
	if err != nil || fd&unix.FD_CLOEXEC == 0 {
		t.Errorf("F_GETFD = %#x, %v: not close-on-exec", fd, err)
	}
	fl, err := unix.FcntlInt(uintptr(e.FD()), unix.F_GETFL, 0)
	if err != nil || fl&unix.O_NONBLOCK == 0 {
		t.Errorf("F_GETFL = %#x, %v: blocking", fl, err)
	}
}
