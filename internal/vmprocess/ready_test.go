package vmprocess

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/virtio/vsock"
)

// TestAgentSilent: a guest that never reports is given up, with what its console
// had to say until then.
func TestAgentSilent(t *testing.T) {
	defer func(d time.Duration) { agentTimeout = d }(agentTimeout)
	agentTimeout = time.Second
	log := slog.New(slog.DiscardHandler)
	p := &process{log: log, console: &ring{max: 1000}}
	hello, err := vsock.New(vsock.Options{CID: guestCID, Log: log}).Listen(protocol.HelloPort)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := p.createIn(t.Context(), &machine{process: p, hello: hello})
		failed <- err
	}()
	time.Sleep(100 * time.Millisecond) // what is said while the wait lasts
	fmt.Fprintln(p.console, "last words")
	err = <-failed
	if err == nil || !strings.Contains(err.Error(), "did not report") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("error %v", err)
	}
}
