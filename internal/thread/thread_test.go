package thread

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	for _, taken := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("%d main threads", taken), func(t *testing.T) {
			var takenBy []int
			takes := func() bool {
				if len(takenBy) < taken {
					takenBy = append(takenBy, unix.Gettid())
					return true
				}
				return onMain()
			}
			calls, tid := 0, 0
			run(func() { calls, tid = calls+1, unix.Gettid() }, takes)
			if calls != 1 {
				t.Errorf("called %d times", calls)
			}
			for _, m := range takenBy {
				if tid == m {
					t.Error("called on a thread that is taken")
				}
			}
			for start := time.Now(); exists(tid); time.Sleep(time.Millisecond) {
				if time.Since(start) > 20*time.Second {
					t.Fatalf("thread %d is still there", tid)
				}
			}
			for _, m := range takenBy {
				if !exists(m) {
					t.Errorf("thread %d ended", m)
				}
			}
		})
	}
}

// TestNeverMain leaves the main thread to whatever goroutine comes.
func TestNeverMain(t *testing.T) {
	for range 1000 {
		Run(func() {
			if onMain() {
				t.Error("called on the main thread")
			}
		})
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", os.Getpid())); err != nil {
		t.Error(err)
	}
}

func exists(tid int) bool { return unix.Tgkill(unix.Getpid(), tid, 0) == nil }
