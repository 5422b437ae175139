package vmprocess

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestRing(t *testing.T) {
	r := &ring{max: 20}
	for _, text := range []string{"first line\n", "second\r\n", "th", "ird\n"} {
		if n, err := r.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got := r.lines(2); fmt.Sprint(got) != "[second third]" {
		t.Errorf("the last 2 lines are %q", got)
	}
	if n, err := r.Write(bytes.Repeat([]byte("x"), 1000)); n != 1000 || err != nil || len(r.data) != 20 {
		t.Errorf("after a large write: %d, %v, %d bytes kept", n, err, len(r.data))
	}
}

func TestEpitaph(t *testing.T) {
	r := &ring{max: 1000}
	fmt.Fprint(r, "boot\n[1] Kernel panic - not syncing: why\ntrace 1\ntrace 2\nend\n")
	if got := fmt.Sprint(r.epitaph(2)); got != "[[1] Kernel panic - not syncing: why … trace 2 end]" {
		t.Errorf("epitaph(2) = %q", got)
	}
	if got := fmt.Sprint(r.epitaph(4)); got != "[[1] Kernel panic - not syncing: why trace 1 trace 2 end]" {
		t.Errorf("epitaph(4) = %q", got)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\tb\r": "a b", "\x1b[31mred\x07": "?[31mred?", "\xff": "?", "ü": "ü",
		strings.Repeat("x", 600): strings.Repeat("x", maxLine),
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestLineLogger(t *testing.T) {
	var b bytes.Buffer
	l := &lineLogger{log: slog.New(slog.NewTextHandler(&b, nil)), level: slog.LevelInfo}
	fmt.Fprint(l, "one\ntw")
	fmt.Fprint(l, "o\n\n"+strings.Repeat("y", 5000)+"\n")
	if got := b.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "msg=one") || !strings.Contains(got, "msg=two") || len(got) > 1000 {
		t.Errorf("logged %q", got)
	}
	b.Reset()
	for i := range 100000 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	if n := strings.Count(b.String(), "\n"); n > 20*linesPerSecond {
		t.Errorf("%d lines were logged in a moment", n)
	}
}
