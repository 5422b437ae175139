package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/tsi"
)

func eventsCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "events",
		Usage:     "show what a container uses, and when it lacks memory",
		ArgsUsage: "ID",
		Description: "Writes a line of JSON for every interval and one for every interval in which a\n" +
			"process was killed for lack of memory, until the container ends. Processor time and\n" +
			"block I/O are the VM process's on the host, memory and pids the container's in the\n" +
			"guest; data.vm has the rest. A paused container has no figures of the guest.\n\n" +
			"Example:\n" +
			"   runv events --stats web1",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "`TIME` between two lines"},
			&cli.BoolFlag{Name: "stats", Usage: "write one line at once, and end"},
		},
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			interval := c.Duration("interval")
			if interval <= 0 {
				return fmt.Errorf("events: --interval %v: must be greater than 0", interval)
			}
			s, err := g.store().Peek(id)
			if err != nil {
				return err
			}
			w := &watch{g: g, state: s, out: json.NewEncoder(os.Stdout)}
			ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			if c.Bool("stats") {
				err = w.once(ctx)
			} else {
				err = w.follow(ctx, interval)
			}
			if err != nil {
				return fmt.Errorf("cannot show the events of %s: %w", id, err)
			}
			return nil
		},
	}
}

// event is one line. The shape is that of other runtimes.
type event struct {
	Type string `json:"type"` // stats or oom
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// watch observes one container.
type watch struct {
	g     *globals
	state *container.State
	out   *json.Encoder

	// kills is how many processes were killed for lack of memory: in the
	// container by the guest, and on the host, where it is the VM. None were
	// when nothing is known.
	kills struct{ guest, host uint64 }
}

// figures is what the guest and its VM process tell.
type figures struct {
	*client.Stats
	network *tsi.Stats
}

// figures asks the guest and its VM process; there are none of a paused
// container.
func (w *watch) figures(ctx context.Context) (*figures, error) {
	if err := checkActive(w.state); errors.Is(err, errPaused) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var f figures
	err := w.g.askContext(ctx, w.state.ID, w.state, func(ctx context.Context, agent *client.Client) (err error) {
		if f.Stats, err = agent.Stats(ctx, w.state.ID); err != nil {
			return err
		}
		f.network, err = w.network(ctx)
		return err
	})
	if errors.Is(err, errPaused) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// maxNetwork bounds what a VM process says of its network, in bytes.
const maxNetwork = 64 << 10

// network asks the VM process for what it does for the guest's sockets.
func (w *watch) network(ctx context.Context) (*tsi.Stats, error) {
	conn, err := w.g.store().DialAgent(ctx, w.state.ID, tsi.Port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var s tsi.Stats
	if err := json.NewDecoder(io.LimitReader(conn, maxNetwork)).Decode(&s); err != nil {
		return nil, fmt.Errorf("figures of the network: %w", err)
	}
	return &s, nil
}

// once writes one event.
func (w *watch) once(ctx context.Context) error {
	guest, err := w.figures(ctx)
	if err != nil {
		return err
	}
	return w.stats(guest)
}

func (w *watch) stats(guest *figures) error {
	return w.out.Encode(event{Type: "stats", ID: w.state.ID, Data: newStats(w.state, guest)})
}

// follow writes events until the container ends or ctx does.
func (w *watch) follow(ctx context.Context, interval time.Duration) error {
	ended := make(chan error, 1)
	go func() {
		_, err := w.state.Process.Wait(-1)
		ended <- err
	}()
	// What happened before is no news.
	guest, err := w.figures(ctx)
	if err != nil {
		return err
	}
	w.oomKills(guest)
	var lastKill <-chan bool
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if lastKill == nil && guest != nil {
			lastKill = w.watchEnd(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return errors.Join(err, w.end(lastKill))
		case <-tick.C:
		}
		guest, err = w.figures(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errNotRunning):
			continue // the end comes
		case err != nil:
			w.g.log.Warn("no figures of the guest", "err", err)
			continue
		}
		if w.oomKills(guest) {
			if err := w.oom(); err != nil {
				return err
			}
		}
		if err := w.stats(guest); err != nil {
			return err
		}
	}
}

func (w *watch) oom() error { return w.out.Encode(event{Type: "oom", ID: w.state.ID}) }

// oomKills tells whether processes were killed for lack of memory since it was
// last called.
func (w *watch) oomKills(guest *figures) bool {
	before := w.kills
	w.kills.host = max(before.host, cgroup.Table(w.state.Cgroup, "memory.events")["oom_kill"])
	if guest != nil {
		w.kills.guest = max(before.guest, guest.Memory.Events["oom_kill"])
	}
	return w.kills != before
}

// watchEnd waits for the container's process in the guest, for what is not to be
// seen any more when the VM has ended: whether a process was killed for lack of
// memory.
func (w *watch) watchEnd(ctx context.Context) <-chan bool {
	killed := make(chan bool, 1)
	go func() {
		defer close(killed)
		agent, err := w.g.agent(ctx, w.state.ID)
		if err != nil {
			return
		}
		defer agent.Close()
		if exit, err := agent.WaitUndrained(ctx, w.state.ID, ""); err == nil {
			killed <- exit.OOMKilled
		}
	}()
	return killed
}

// end writes what the end of the container brought.
func (w *watch) end(lastKill <-chan bool) error {
	known := w.kills.guest > 0
	lastMoment := time.NewTimer(time.Second) // the connection ends with the VM
	defer lastMoment.Stop()
	select {
	case killed := <-lastKill:
		known = known || !killed
	case <-lastMoment.C:
		known = true
	}
	if !known || w.oomKills(nil) {
		return w.oom()
	}
	return nil
}
