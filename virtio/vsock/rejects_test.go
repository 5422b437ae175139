package vsock

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestRejects: a guest that sends nothing but nonsense gets few lines.
func TestRejects(t *testing.T) {
	var b bytes.Buffer
	r := rejects{log: slog.New(slog.NewTextHandler(&b, nil))}
	h := Header{SrcCID: 3}
	const many = 100000
	for range many {
		r.add("nonsense", &h)
	}
	if n := strings.Count(b.String(), "\n"); n < 1 || n > 3 {
		t.Errorf("%d lines of %d", n, many)
	}
	left := r.count
	r.last = r.last.Add(-1 << 40)
	b.Reset()
	r.add("nonsense", &h)
	if want := fmt.Sprintf("count=%d", left+1); !strings.Contains(b.String(), want) {
		t.Errorf("no %s in %q", want, b.String())
	}
}
