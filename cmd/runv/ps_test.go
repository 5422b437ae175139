package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"runv.dev/runv/agent/client"
)

func TestPSTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 30, 0, 0, time.UTC)
	list := []client.Process{
		{PID: 60, ParentPID: 0, ContainerPID: 1, State: "S", Command: "sh", Args: []string{"sh", "-c", "sleep 9"}, Started: now.Add(-time.Hour), CPUTime: 3661 * time.Second, RSS: 12 << 10, TTY: 136<<8 | 2},
		{PID: 61, ParentPID: 60, ContainerPID: 7, UID: 4711, GID: 5, State: "Z", Command: "sleep", Started: now.Add(-48 * time.Hour)},
	}
	for _, tt := range []struct {
		options []string
		want    string
	}{
		{nil, `UID          PID    PPID  C STIME TTY          TIME CMD
root           1       0 99 11:30 pts/2    01:01:01 sh -c sleep 9
4711           7       1  0 Nov20 ?        00:00:00 [sleep]
`},
		{[]string{"-e", "-x"}, `    PID TTY      STAT   TIME COMMAND
      1 pts/2    S     61:01 sh -c sleep 9
      7 ?        Z      0:00 [sleep]
`},
		{[]string{"-eo", "pid,etime,gid,rss,comm"}, `    PID     ELAPSED   GID   RSS COMMAND
      1    01:00:00     0    12 sh
      7  2-00:00:00     5     0 sleep
`},
	} {
		columns, err := parsePSOptions(tt.options)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := psTable(&b, list, columns, now); err != nil {
			t.Fatal(err)
		}
		if b.String() != tt.want {
			t.Errorf("%q: got\n%swant\n%s", tt.options, b.String(), tt.want)
		}
	}
}

func TestPSOptions(t *testing.T) {
	for _, tt := range []struct {
		options string
		want    []string
		err     string
	}{
		{"", psFull, ""},
		{"-ef", psFull, ""},
		{"ax", psBSD, ""},
		{"-e -x -f", psFull, ""},
		{"-o pid,user", []string{"pid", "user"}, ""},
		{"-Aopid", []string{"pid"}, ""},
		{"-aux", nil, "the processes are in a VM"},
		{"f", nil, "the processes are in a VM"},
		{"--forest", nil, "the processes are in a VM"},
		{"-o vsz", nil, `no column "vsz"`},
		{"-o", nil, "wants columns"},
		{"-o pid -e", nil, "nothing may follow"},
	} {
		got, err := parsePSOptions(strings.Fields(tt.options))
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, %v; want %q, %q", tt.options, got, err, tt.want, tt.err)
		}
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
