package mmio

import (
	"log/slog"
	"sync"
	"time"
)

// limiter logs what a guest can provoke: a few lines at once, then one an
// interval, which tells how many were left out.
type limiter struct {
	log *slog.Logger

	mu       sync.Mutex
	tokens   int
	refilled time.Time
	dropped  uint64
}

const (
	logBurst    = 5
	logInterval = 10 * time.Second
)

func newLimiter(log *slog.Logger) *limiter {
	return &limiter{log: log, tokens: logBurst, refilled: time.Now()}
}

func (l *limiter) warn(msg string, args ...any) {
	ok, dropped := l.take(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		args = append(args, "dropped", dropped)
	}
	l.log.Warn(msg, args...)
}

// take decides whether a line may be logged now, and returns how many were
// not since the last one.
func (l *limiter) take(now time.Time) (ok bool, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := int(now.Sub(l.refilled) / logInterval); n > 0 {
		l.tokens = min(l.tokens+n, logBurst)
		l.refilled = now
	}
	if l.tokens == 0 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
