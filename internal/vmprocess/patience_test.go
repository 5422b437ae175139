package vmprocess

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestPatience: how many periods a guest gets, by what it computes in each.
func TestPatience(t *testing.T) {
	const period = time.Millisecond
	late := errors.New("late")
	for _, tt := range []struct {
		name    string
		each    time.Duration // processor time of a period
		periods int
	}{
		{"halted", 0, 1},
		{"halted, with a timer", period / 200, 1},
		{"computing alone", period, 1},
		{"computing on many processors", 4 * period, 1},
		{"one of two on a processor", period / 2, 2},
		{"one of five", period / 5, 5},
		{"one of a hundred", period / 100, mostPeriods},
	} {
		looks := 0
		ctx, cancel := patience(t.Context(), period, late, func() time.Duration {
			looks++
			return time.Second + time.Duration(looks)*tt.each
		})
		<-ctx.Done()
		if cause := context.Cause(ctx); cause != late || looks != 1+tt.periods {
			t.Errorf("%s: %v after %d periods; want %d", tt.name, cause, looks-1, tt.periods)
		}
		cancel()
	}
	ctx, cancel := patience(t.Context(), time.Hour, late, processorTime)
	cancel()
	<-ctx.Done()
	if cause := context.Cause(ctx); cause != context.Canceled {
		t.Errorf("the wait is over: %v", cause)
	}
}

// TestProcessorTime: work is seen, whoever of this process does it.
func TestProcessorTime(t *testing.T) {
	before := processorTime()
	for i := 0; processorTime() == before; i++ {
		if i == 1e9 {
			t.Fatal("it stands still")
		}
	}
}
