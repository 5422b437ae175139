package vmprocess

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// ring keeps the end of what is written to it: the guest's console.
type ring struct {
	mu   sync.Mutex
	data []byte
	max  int
}

// Write never fails and never keeps more than max bytes.
func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	if len(p) > r.max {
		p = p[len(p)-r.max:]
	}
	if over := len(r.data) + len(p) - r.max; over > 0 {
		r.data = append(r.data[:0], r.data[over:]...)
	}
	r.data = append(r.data, p...)
	return n, nil
}

// lines has the last n lines in printable form.
func (r *ring) lines(n int) []string {
	r.mu.Lock()
	text := string(r.data)
	r.mu.Unlock()
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = printable(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// panicMark is how a Linux kernel begins its last words.
const panicMark = "Kernel panic - "

// epitaph has the last n lines, and before them what the kernel said when it
// panicked, which the trace after it may have pushed out.
func (r *ring) epitaph(n int) []string {
	all := r.lines(r.max)
	last := all[max(0, len(all)-n):]
	for _, line := range all[:len(all)-len(last)] {
		if strings.Contains(line, panicMark) {
			return append([]string{line, "…"}, last...)
		}
	}
	return last
}

// maxLine bounds a line that the guest wrote, in bytes.
const maxLine = 512

// printable makes a line of the guest's harmless on a terminal and in a log.
func printable(line string) string {
	line = strings.TrimRight(line, "\r \t")
	if len(line) > maxLine {
		line = line[:maxLine]
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, line)
}
