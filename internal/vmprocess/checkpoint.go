package vmprocess

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/checkpoint"
)

// quietTimeout bounds how long a container's output may take to where it goes.
const quietTimeout = 30 * time.Second

// serveCheckpoints has clients of agent.sock save the container, one at a time.
// It comes before agent.sock is served.
func (m *machine) serveCheckpoints() {
	m.vsock.Answer(checkpoint.Port, func(w io.Writer) {
		conn, ok := w.(*net.UnixConn)
		if !ok {
			return
		}
		if err := m.saveFor(conn); err != nil {
			m.process.log.Warn("checkpoint", "err", err)
		}
	})
}

// saveFor serves one client.
func (m *machine) saveFor(conn *net.UnixConn) error {
	memory, state, err := checkpoint.Accept(conn)
	if err != nil {
		return err
	}
	defer memory.Close()
	defer state.Close()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	refuse := func(err error) error {
		_, replyErr := checkpoint.Reply(conn, checkpoint.Answer{Error: err.Error()})
		return errors.Join(err, replyErr)
	}
	if !m.saving.TryLock() {
		return refuse(errors.New("the container is being saved already"))
	}
	defer m.saving.Unlock()
	c := m.container.Load()
	if c == nil {
		return refuse(errors.New("the container is not running"))
	}
	warnings, err := c.save(memory, state)
	if err != nil {
		return refuse(errors.Join(err, c.goOn()))
	}
	end, err := checkpoint.Reply(conn, checkpoint.Answer{Warnings: warnings})
	if end {
		// As other runtimes' containers end after a checkpoint.
		os.Exit(128 + int(unix.SIGKILL))
	}
	return errors.Join(err, c.goOn())
}

// save brings the container to rest and writes it down. Whether it fails or not,
// goOn is to be called if the container is to go on.
func (c *container) save(memory, state *os.File) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(c.machine.guest, quietTimeout)
	defer cancel()
	if err := c.init.Suspend(ctx); err != nil {
		return nil, err
	}
	stats := c.machine.network.Stats()
	for _, s := range []struct {
		n    uint64
		what string
	}{{stats.Connections, "TCP connections"}, {stats.Listeners, "TCP sockets that listen"}, {stats.Datagrams, "UDP and ICMP sockets"}} {
		if s.n > 0 {
			warnings = append(warnings, fmt.Sprintf("%d %s are not in the checkpoint: after a restore they are reset", s.n, s.what))
		}
	}
	vm := c.machine.vm
	if err := vm.Pause(); err != nil {
		return nil, err
	}
	sum := sha256.New()
	machine, err := vm.Checkpoint(io.MultiWriter(memory, sum))
	// The container is frozen in the guest until it goes on.
	if err := errors.Join(err, vm.Resume()); err != nil {
		return nil, err
	}
	data, err := checkpoint.Encode(machine, c.boot.ID, sum.Sum(nil))
	if err != nil {
		return nil, err
	}
	if _, err := state.Write(data); err != nil {
		return nil, err
	}
	return warnings, errors.Join(memory.Sync(), state.Sync())
}

// goOn has a container that was saved go on.
func (c *container) goOn() error {
	ctx, cancel := context.WithTimeout(c.machine.guest, quietTimeout)
	defer cancel()
	return c.init.Resume(ctx)
}

// attach has the container of a checkpoint go on: the machine has been restored
// and runs, and the agent waits with a container that is suspended.
func (p *process) attach(ctx context.Context, m *machine, c *container) error {
	network, err := m.mirror.Read()
	if err != nil {
		return err
	}
	opened := make(chan error, 1)
	go func() { opened <- c.client.OpenStdio(ctx, c.init.Streams()) }()
	written, warnings, err := c.client.Attach(ctx, client.AttachOptions{
		ID: p.boot.ID, SavedID: m.saved.ID, Stdio: c.init.Streams(), Clone: newClone(true), Network: network,
	})
	if err = errors.Join(err, <-opened); err != nil {
		return err
	}
	c.init.Written(written)
	c.warn(warnings)
	go c.followNetwork(network)
	c.init.Start()
	m.container.Store(c)
	return nil
}
