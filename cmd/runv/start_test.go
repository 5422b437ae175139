package main

import (
	"os"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/container"
)

// TestPeek has a container whose process is heard before its state says that it
// runs, one that takes long to be created, and one of which nothing runs yet.
func TestPeek(t *testing.T) {
	self, err := container.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		process container.Process
		runs    bool
		want    specs.ContainerState
		least   time.Duration
		most    time.Duration
	}{
		"about to run": {self, true, specs.StateRunning, 0, time.Minute},
		"creating":     {self, false, specs.StateCreating, settleTime, time.Minute},
		"no process":   {container.Process{}, false, specs.StateCreating, 0, settleTime},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &globals{root: t.TempDir()}
			c, err := g.store().Create("c")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Unlock()
			c.State.Status, c.State.Creator, c.State.Process = specs.StateCreating, self, tt.process
			if err := c.Save(); err != nil {
				t.Fatal(err)
			}
			saved := make(chan error, 1)
			if tt.runs {
				time.AfterFunc(100*time.Millisecond, func() {
					c.State.Status = specs.StateRunning
					saved <- c.Save()
				})
			} else {
				saved <- nil
			}
			begun := time.Now()
			s, err := g.peek("c")
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); s.Now() != tt.want || took < tt.least || took > tt.most {
				t.Errorf("%s after %v; want %s after %v to %v", s.Now(), took, tt.want, tt.least, tt.most)
			}
			if err := <-saved; err != nil {
				t.Error(err)
			}
		})
	}
}
