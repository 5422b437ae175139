package fs

import "testing"

// TestLimiter: what a guest can repeat at will is a few lines, with the number of
// those left out in the next one.
func TestLimiter(t *testing.T) {
	var l limiter
	lines := 0
	for range 100000 {
		if _, ok := l.allow(); ok {
			lines++
		}
	}
	if lines < noiseBurst || lines > 2*noiseBurst {
		t.Errorf("%d lines of 100000; want %d", lines, noiseBurst)
	}
	l.last = l.last.Add(-2 * noisePeriod)
	if skipped, ok := l.allow(); !ok || skipped != 100000-lines {
		t.Errorf("after the period: %v, %d left out; want %d", ok, skipped, 100000-lines)
	}
}
