package vmprocess

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// A guest that shares its processors with many others makes progress, but late.
// One that hangs computes for ever, or nothing.
const (
	// stirring is the part of a period, one in so many, that a guest computes at
	// least while it waits for nothing but a processor.
	stirring = 100
	// mostPeriods bounds the wait whatever the guest does.
	mostPeriods = 10
)

// patience is a context that ends with cause when a guest has had its time: after
// a period in which it did next to nothing, or once it computed for a whole
// period, which on a host with nothing else to do is after the first. used has
// the processor time so far.
func patience(ctx context.Context, period time.Duration, cause error, used func() time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	begun := used()
	go func() {
		timer := time.NewTicker(period)
		defer timer.Stop()
		last := begun
		for range mostPeriods {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			now := used()
			if now-last < period/stirring || now-begun >= period {
				break
			}
			last = now
		}
		cancel(cause)
	}()
	return ctx, func() { cancel(nil) }
}

// processorTime is what this process, with its guest, has had of the processors.
func processorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // as of a guest that does nothing
	}
	return time.Duration(t.Nano())
}
