package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"runv.dev/runv/tests/host/wire"
)

// agent runs the commands that arrive on one control stream.
type agent struct {
	conn *wire.Conn
	log  *slog.Logger

	mu   sync.Mutex
	jobs map[uint32]*job
}

// serveAgent runs until the control stream ends, then kills what still runs.
func serveAgent(control *os.File) error {
	a := &agent{
		conn: wire.NewConn(control),
		log:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		jobs: make(map[uint32]*job),
	}
	if err := a.conn.Write(wire.Frame{Kind: wire.Hello}); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	for {
		f, err := a.conn.Read()
		if err != nil {
			a.abortAll()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("control stream: %w", err)
		}
		if f.Kind == wire.Shutdown {
			a.abortAll()
			return nil
		}
		if err := a.handle(f); err != nil {
			a.log.Error("drop frame", "session", f.Session, "err", err)
		}
	}
}

func (a *agent) handle(f wire.Frame) error {
	a.mu.Lock()
	j := a.jobs[f.Session]
	if j == nil && f.Kind == wire.Start {
		j = newJob(a.conn, f.Session)
		a.jobs[f.Session] = j
	}
	a.mu.Unlock()
	if j == nil {
		return nil // the session ended while the frame was under way
	}
	switch f.Kind {
	case wire.Start:
		return a.start(j, f.Payload)
	case wire.Data:
		return j.stdin.Put(f.Payload)
	case wire.EOF:
		j.stdin.End()
	case wire.Credit:
		n, _, err := wire.ParseUint32(f.Payload)
		if err != nil {
			return err
		}
		j.output(f.Stream).Grant(n)
	case wire.Signal:
		n, _, err := wire.ParseUint32(f.Payload)
		if err != nil {
			return err
		}
		j.signal(n)
	case wire.Abort:
		j.abort()
	default:
		return fmt.Errorf("unexpected kind %d", f.Kind)
	}
	return nil
}

// start collects the parts of a command and, at the last one, runs it.
func (a *agent) start(j *job, part []byte) error {
	if len(part) > 0 {
		if len(j.description)+len(part) > wire.MaxCommand {
			return errors.New("command is too long")
		}
		j.description = append(j.description, part...)
		return nil
	}
	var c wire.Command
	if err := json.Unmarshal(j.description, &c); err != nil {
		return fmt.Errorf("command: %w", err)
	}
	go func() {
		status, err := j.run(c)
		a.mu.Lock()
		delete(a.jobs, j.session)
		a.mu.Unlock()
		payload := wire.Uint32(uint32(status))
		if err != nil {
			text := err.Error()
			payload = append(payload, text[:min(len(text), 4096)]...)
		}
		if err := a.conn.Write(wire.Frame{Session: j.session, Kind: wire.Exit, Payload: payload}); err != nil {
			a.log.Error("report exit", "session", j.session, "err", err)
		}
	}()
	return nil
}

func (a *agent) abortAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.jobs {
		j.abort()
	}
}
