package hostile

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/attach"
)

// serveAgent has the hostile agent of a case in this process, and a client of it.
func serveAgent(t *testing.T, name string) *client.Client {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	must(t, err)
	server, err := ttrpc.NewServer()
	must(t, err)
	protocol.RegisterAgentService(server, &agent{name: name, streams: map[protocol.Token]chan net.Conn{}, signalled: make(chan struct{})})
	go server.Serve(context.Background(), l)
	t.Cleanup(func() { server.Close() })
	c, err := client.New(t.Context(), func(ctx context.Context, _ uint32) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.Addr().String())
	})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// waiting is how long the host takes at most to notice what has happened:
// less than it gives an agent to answer.
const waiting = time.Minute

// TestSignalUnanswered: an agent that does not answer a signal holds up neither
// the container's exit nor the end of the guest.
func TestSignalUnanswered(t *testing.T) {
	died := errors.New("the guest died")
	for name, tc := range map[string]struct {
		agent string
		want  error
	}{
		"exit":       {"signal-silent", nil},
		"guest dies": {"signal-stuck", died},
	} {
		t.Run(name, func(t *testing.T) {
			guest, die := context.WithCancelCause(t.Context())
			defer die(nil)
			p, err := attach.New(attach.Options{
				Client: serveAgent(t, tc.agent), ID: "x", Guest: guest,
				Log: slog.New(slog.DiscardHandler),
			})
			must(t, err)
			signals := make(chan os.Signal, 200)
			for range 150 {
				signals <- unix.SIGTERM
			}
			type result struct {
				exit client.Exit
				err  error
			}
			done := make(chan result, 1)
			go func() {
				exit, err := p.Wait(signals)
				done <- result{exit, err}
			}()
			if tc.want != nil {
				time.AfterFunc(200*time.Millisecond, func() { die(died) })
			}
			select {
			case r := <-done:
				if !errors.Is(r.err, tc.want) || tc.want == nil && r.exit.Status() != 3 {
					t.Errorf("Wait = %+v, %v", r.exit, r.err)
				}
			case <-time.After(waiting):
				t.Error("Wait waits for the answer to a signal")
			}
		})
	}
}
