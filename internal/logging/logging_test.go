package logging

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	log := New(&b, true, slog.LevelInfo)
	log.Debug("hidden")
	log.Warn("two\nlines", "key", "value")
	var got struct{ Level, Msg, Time, Key string }
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, b.Bytes())
	}
	if got.Level != "warning" || got.Msg != "two\nlines" || got.Key != "value" {
		t.Errorf("got %+v", got)
	}
	if _, err := time.Parse(time.RFC3339Nano, got.Time); err != nil {
		t.Error(err)
	}
	if bytes.Count(b.Bytes(), []byte("\n")) != 1 {
		t.Errorf("not one line: %q", b.Bytes())
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	New(&b, false, slog.LevelDebug).Error("broken", "level", "x")
	if !strings.Contains(b.String(), `level=error msg=broken`) {
		t.Errorf("got %q", b.String())
	}
}
