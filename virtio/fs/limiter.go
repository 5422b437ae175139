package fs

import (
	"sync"
	"time"
)

const (
	noiseBurst  = 8
	noisePeriod = 10 * time.Second
)

// limiter bounds how often a guest gets to write to the log: a burst, and
// after that one line in a period.
type limiter struct {
	mu      sync.Mutex
	lines   int
	last    time.Time
	skipped int
}

// allow reports whether to log now, and how many were not since the last time.
func (l *limiter) allow() (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.lines >= noiseBurst && now.Sub(l.last) < noisePeriod {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped = l.skipped, 0
	l.lines++
	l.last = now
	return skipped, true
}
