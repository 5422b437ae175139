package logging

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// limitInterval is the time between two lines with the same message.
const limitInterval = 10 * time.Second

// Limited logs what a guest can cause, at a bounded rate: of each message one
// line every ten seconds, with the number of those left out as "more".
// Messages are the program's own, so that there are few.
type Limited struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	last map[string]*limited // by message
}

type limited struct {
	at   time.Time
	more uint64 // since
}

// NewLimited makes a logger that writes to log.
func NewLimited(log *slog.Logger) *Limited {
	return &Limited{log: log, now: time.Now, last: make(map[string]*limited)}
}

// Warn logs like slog.Logger.Warn.
func (l *Limited) Warn(msg string, args ...any) { l.add(slog.LevelWarn, msg, args) }

// Error logs like slog.Logger.Error.
func (l *Limited) Error(msg string, args ...any) { l.add(slog.LevelError, msg, args) }

func (l *Limited) add(level slog.Level, msg string, args []any) {
	more, ok := l.take(msg)
	if !ok {
		return
	}
	if more > 0 {
		args = append(args, "more", more)
	}
	l.log.Log(context.Background(), level, msg, args...)
}

// take tells whether to log a message now, and how many were not since the last
// time.
func (l *Limited) take(msg string) (more uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.last[msg]
	if e == nil {
		e = &limited{}
		l.last[msg] = e
	}
	now := l.now()
	if !e.at.IsZero() && now.Sub(e.at) < limitInterval {
		e.more++
		return 0, false
	}
	more, e.at, e.more = e.more, now, 0
	return more, true
}
