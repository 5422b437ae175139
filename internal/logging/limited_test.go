package logging

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestLimited: what a guest can repeat at will is a line, with the number of
// those left out in the next one.
func TestLimited(t *testing.T) {
	var out bytes.Buffer
	l := NewLimited(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	clock := time.Unix(1, 0)
	l.now = func() time.Time { return clock }
	for _, step := range []struct {
		wait time.Duration
		log  func(string, ...any)
		msg  string
		n    int
		want string
	}{
		{0, l.Warn, "a", 100000, "level=WARN msg=a k=v\n"},
		{0, l.Error, "b", 2, "level=ERROR msg=b k=v\n"},
		{limitInterval - 1, l.Warn, "a", 1, ""},
		{1, l.Warn, "a", 2, "level=WARN msg=a k=v more=100000\n"},
		{2 * limitInterval, l.Error, "b", 1, "level=ERROR msg=b k=v more=1\n"},
	} {
		clock = clock.Add(step.wait)
		out.Reset()
		for range step.n {
			step.log(step.msg, "k", "v")
		}
		if got := out.String(); got != step.want {
			t.Errorf("%d times %s after %v: %q, want %q", step.n, step.msg, step.wait, strings.TrimSpace(got), step.want)
		}
	}
}
