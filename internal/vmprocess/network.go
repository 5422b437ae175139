package vmprocess

import (
	"runv.dev/runv/internal/tsi"
)

const (
	// maxConns bounds the guest's connections to the host: one for each of its
	// sockets, and the agent's few.
	maxConns = 20000

	// maxBuffer is what all of them may have received and not passed on, in
	// bytes.
	maxBuffer = 192 << 20
)

// impersonate serves the guest's sockets in this process's network namespace.
func (m *machine) impersonate() error {
	m.network = tsi.New(tsi.Options{Log: m.process.log.With("device", "tsi")})
	streams, err := m.vsock.Listen(tsi.Port)
	if err != nil {
		return err
	}
	packets, err := m.vsock.ListenSeqpacket(tsi.Port)
	if err != nil {
		return err
	}
	m.network.Serve(streams, packets)
	return nil
}
