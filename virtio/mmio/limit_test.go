package mmio

import (
	"io"
	"log/slog"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	l := newLimiter(slog.New(slog.NewTextHandler(io.Discard, nil)))
	now := l.refilled
	for i := range logBurst {
		if ok, _ := l.take(now); !ok {
			t.Fatalf("line %d was dropped", i)
		}
	}
	for range 100 {
		if ok, _ := l.take(now.Add(logInterval - 1)); ok {
			t.Fatal("a line too many")
		}
	}
	if ok, dropped := l.take(now.Add(logInterval)); !ok || dropped != 100 {
		t.Errorf("after an interval: %v, %d dropped, want 100", ok, dropped)
	}
	if ok, _ := l.take(now.Add(logInterval)); ok {
		t.Error("two lines for one interval")
	}
	now = now.Add(24 * time.Hour)
	for i := range logBurst + 1 {
		if ok, _ := l.take(now); ok != (i < logBurst) {
			t.Errorf("line %d after a long time: %v", i, ok)
		}
	}
}
