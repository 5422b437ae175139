package vmprocess

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// lineLogger logs the lines that the guest writes, at most so many a second.
type lineLogger struct {
	log    *slog.Logger
	level  slog.Level
	line   []byte
	second time.Time
	count  int
}

// linesPerSecond bounds what a guest can make this process log.
const linesPerSecond = 50

func (l *lineLogger) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		room := maxLine - len(l.line)
		l.line = append(l.line, part[:min(len(part), max(room, 0))]...)
		if ended {
			l.flush()
		}
		p = rest
	}
	return n, nil
}

func (l *lineLogger) flush() {
	line := printable(string(l.line))
	l.line = l.line[:0]
	if line == "" || !l.log.Enabled(context.Background(), l.level) {
		return
	}
	now := time.Now()
	if now.Sub(l.second) >= time.Second {
		l.second, l.count = now, 0
	}
	l.count++
	switch {
	case l.count <= linesPerSecond:
		l.log.Log(context.Background(), l.level, line, "from", "guest")
	case l.count == linesPerSecond+1:
		l.log.Log(context.Background(), l.level, "more lines from the guest are left out", "from", "guest")
	}
}
