package main

import (
	"strings"
	"testing"
	"time"

	"runv.dev/runv/agent/client"
)

func TestPSTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 30, 0, 0, time.UTC)
	list := []client.Process{
		{PID: 60, ParentPID: 0, ContainerPID: 1, State: "S", Command: "sh", Args: []string{"sh", "-c", "sleep 9"}, Started: now.Add(-time.Hour), CPUTime: 3661 * time.Second, TTY: 136<<8 | 2},
		{PID: 61, ParentPID: 60, ContainerPID: 7, UID: 1000, State: "Z", Command: "sleep", Started: now.Add(-48 * time.Hour)},
	}
	var b strings.Builder
	if err := psTable(&b, list, now); err != nil {
		t.Fatal(err)
	}
	want := `UID   PID  PPID  STAT  STIME  TTY    TIME      CMD
0     1    0     S     11:30  pts/2  01:01:01  sh -c sleep 9
1000  7    1     Z     Nov20  ?      00:00:00  [sleep]
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestTTYName(t *testing.T) {
	for dev, want := range map[uint32]string{
		0: "?", 5<<8 | 1: "console", 136 << 8: "pts/0", 136<<8 | 255: "pts/255", 136<<8 | 1<<20: "pts/256", 4<<8 | 64: "4:64",
	} {
		if got := ttyName(dev); got != want {
			t.Errorf("ttyName(%#x) = %s, want %s", dev, got, want)
		}
	}
}
