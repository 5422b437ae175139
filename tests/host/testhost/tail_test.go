package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	console := newTail()
	fmt.Fprint(console, strings.Repeat("x", 3*tailSize), "rcu: INFO: rcu_preempt detected ")
	select {
	case <-console.stalled:
		t.Error("half of the message counts as a stall")
	default:
	}
	for range 2 {
		fmt.Fprint(console, "stalls on CPUs/tasks:\r\n")
	}
	select {
	case <-console.stalled:
	default:
		t.Error("the stall was not seen")
	}
	if text := console.String(); len(text) > tailSize+2 || !strings.HasSuffix(text, "stalls on CPUs/tasks:") || strings.Contains(text, "\r") {
		t.Errorf("kept %d bytes, ending in %q", len(text), text[max(0, len(text)-30):])
	}
}
