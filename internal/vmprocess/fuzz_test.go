package vmprocess

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"
)

// FuzzConsoleText writes what a guest says on its console and to its log, in
// two pieces. What comes out for people is bounded and printable, line by line.
func FuzzConsoleText(f *testing.F) {
	f.Add([]byte("boot\n[1] Kernel panic - not syncing: why\ntrace\nend\n"), uint16(7))
	f.Add([]byte("\x1b[2J\x00\xff\xfe\r\n\u202e\u2028\n\t\n"), uint16(3))
	f.Add(bytes.Repeat([]byte("x"), 3*maxLine), uint16(maxLine))
	f.Add([]byte(strings.Repeat("Kernel panic - \n", 100)), uint16(1))
	f.Add([]byte("ä\nö"), uint16(1))
	f.Fuzz(func(t *testing.T, text []byte, cut uint16) {
		const size = 1000
		r := &ring{max: size}
		var logged bytes.Buffer
		l := &lineLogger{log: slog.New(slog.NewTextHandler(&logged, nil)), level: slog.LevelInfo}
		n := min(int(cut), len(text))
		for _, part := range [][]byte{text[:n], text[n:]} {
			for _, w := range []io.Writer{r, l} {
				if n, err := w.Write(part); n != len(part) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
		}
		if len(r.data) > size || len(l.line) > maxLine {
			t.Errorf("%d and %d bytes are kept", len(r.data), len(l.line))
		}
		if lines := r.epitaph(3); len(lines) > 5 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range append(r.lines(size), r.epitaph(3)...) {
			if len(line) > 3*maxLine || strings.ContainsFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Errorf("line %q", line)
			}
		}
		for line := range strings.Lines(logged.String()) {
			if len(line) > 5*maxLine+200 || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(c rune) bool { return c < ' ' }) {
				t.Errorf("log line %q", line)
			}
		}
	})
}
