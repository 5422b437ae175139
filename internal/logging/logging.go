// Package logging writes logs in the two formats that engines know from other
// OCI runtimes: text, and JSON objects with level, msg and time.
package logging

import (
	"io"
	"log/slog"
	"strings"
	"time"
)

// New has a logger that writes whole lines to w, from level on.
func New(w io.Writer, json bool, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if json {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// replace gives levels and times the form that engines parse.
func replace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			name := strings.ToLower(level.String())
			if level == slog.LevelWarn {
				name = "warning"
			}
			a.Value = slog.StringValue(name)
		}
	case slog.TimeKey:
		a.Value = slog.StringValue(a.Value.Time().Format(time.RFC3339Nano))
	}
	return a
}
