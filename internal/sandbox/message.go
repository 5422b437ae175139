package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

// Bootstrap is what the VM process is told to become.
type Bootstrap struct {
	ID   string
	Plan *spec.Plan

	// State is what hooks get, but for its status.
	State *specs.State

	// Kernel and Initrd replace what this binary has inside, as the operator
	// said; empty otherwise.
	Kernel, Initrd string

	// HostNetworks are the network namespaces that are the host's own, see the
	// function of that name.
	HostNetworks []string

	// Start starts the container as soon as it is created, unasked.
	Start bool

	// Image is the directory of a checkpoint to go on from; empty: none. The
	// container is running as soon as it is created.
	Image string `json:",omitempty"`

	// Templates is the directory of the templates; empty: boot.
	Templates string

	Debug   bool
	LogJSON bool
}

// ColdBoot says why the guest was booted though there might have been a
// template.
type ColdBoot struct {
	Reason string
	// Refused: there is a template, but no machine could be made of it.
	Refused bool `json:",omitempty"`
}

// Kinds of messages.
const (
	kindBootstrap = "bootstrap"
	kindStart     = "start"
	kindCreated   = "created"
	kindStarted   = "started"
	kindFailed    = "failed"
)

// message is what passes through the sync socket.
type message struct {
	Kind      string     `json:"kind"`
	Bootstrap *Bootstrap `json:"bootstrap,omitempty"`
	Cold      *ColdBoot  `json:"cold,omitempty"` // of created
	// Of failed: the reason and the runtime's exit status.
	Error  string `json:"error,omitempty"`
	Status int    `json:"status,omitempty"`
}

// Failure is a reason for which the VM process could not create or start the
// container.
type Failure struct {
	Reason string
	Status int // what the runtime exits with
}

func (f *Failure) Error() string { return f.Reason }

// maxMessage bounds a message, in bytes: a config.json may have 16 MiB.
const maxMessage = 64 << 20

func writeMessage(w io.Writer, m *message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes", len(data))
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	_, err = w.Write(append(frame, data...))
	return err
}

func readMessage(r io.Reader) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// Sync is the VM process's end of the sync socket.
type Sync struct{ conn net.Conn }

// Bootstrap waits for what to become.
func (s *Sync) Bootstrap() (*Bootstrap, error) {
	m, err := readMessage(s.conn)
	if err != nil {
		return nil, fmt.Errorf("wait for the plan: %w", err)
	}
	if m.Kind != kindBootstrap || m.Bootstrap == nil || m.Bootstrap.Plan == nil {
		return nil, fmt.Errorf("wait for the plan: got %q", m.Kind)
	}
	return m.Bootstrap, nil
}

// Abandoned returns when the runtime has gone away or closed the socket, and
// calls start for a request to start the container before that.
func (s *Sync) Abandoned(start func()) {
	for {
		m, err := readMessage(s.conn)
		if err != nil {
			return
		}
		if m.Kind == kindStart {
			start()
		}
	}
}

// Created reports that the container is created, and if its guest was booted,
// why.
func (s *Sync) Created(cold *ColdBoot) error {
	return writeMessage(s.conn, &message{Kind: kindCreated, Cold: cold})
}

// Started reports that the container's process runs.
func (s *Sync) Started() error { return writeMessage(s.conn, &message{Kind: kindStarted}) }

// Failed reports why there is no container; status is what the runtime is to
// exit with.
func (s *Sync) Failed(err error, status int) error {
	return writeMessage(s.conn, &message{Kind: kindFailed, Error: err.Error(), Status: status})
}

// Close closes this end.
func (s *Sync) Close() error { return s.conn.Close() }

// expect reads the answer of the VM process.
func expect(r io.Reader, kind string) (*message, error) {
	m, err := readMessage(r)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errDied
	case err != nil:
		return nil, err
	case m.Kind == kindFailed:
		return nil, &Failure{Reason: m.Error, Status: m.Status}
	case m.Kind != kind:
		return nil, fmt.Errorf("the VM process answered %q instead of %q", m.Kind, kind)
	}
	return m, nil
}

var errDied = errors.New("the VM process died")

// Died tells whether err says that the VM process ended without a report.
func Died(err error) bool { return errors.Is(err, errDied) }
