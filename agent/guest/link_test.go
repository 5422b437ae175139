package guest

import (
	"context"
	"net"
	"testing"
)

// TestLinkClosed suspends and resumes a link whose process has closed its end.
func TestLinkClosed(t *testing.T) {
	for _, name := range []string{"before", "meanwhile"} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := net.Pipe()
			defer theirs.Close()
			l := newLink()
			l.set(ours)
			l.begin(&l.inputs)
			if name == "before" {
				l.Close()
			}
			if err := l.suspend(context.Background(), 0, func() {}); err != nil {
				t.Errorf("suspend: %v", err)
			}
			l.Close()
			if err := l.resume(nil); err != nil {
				t.Errorf("resume: %v", err)
			}
		})
	}
}
