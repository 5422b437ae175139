package tsi

import (
	"runtime"
	"sync/atomic"
)

// Stats are what the server has counted since it was made, and what is open.
type Stats struct {
	Sockets     uint64 `json:"sockets"`     // open, of any kind and state
	Connections uint64 `json:"connections"` // TCP connections open
	Listeners   uint64 `json:"listeners"`   // TCP sockets that listen
	Datagrams   uint64 `json:"datagrams"`   // UDP and ICMP echo sockets open

	Connected uint64 `json:"connected"` // TCP connections made by the guest
	Accepted  uint64 `json:"accepted"`  // and accepted for it
	Failed    uint64 `json:"failed"`    // connection attempts that failed

	BytesSent         uint64 `json:"bytesSent"` // by the guest
	BytesReceived     uint64 `json:"bytesReceived"`
	DatagramsSent     uint64 `json:"datagramsSent"`
	DatagramsReceived uint64 `json:"datagramsReceived"`

	Refused   uint64 `json:"refused"`   // by policy
	Malformed uint64 `json:"malformed"` // messages that broke the protocol
	Dropped   uint64 `json:"dropped"`   // options that could not be set and nobody asked
	Exhausted uint64 `json:"exhausted"` // sockets beyond the limit

	Goroutines uint64 `json:"goroutines"` // of the whole process
}

type counters struct {
	connections, listeners, datagrams      atomic.Int64
	connected, accepted, failed            atomic.Uint64
	bytesSent, bytesReceived               atomic.Uint64
	datagramsSent, datagramsReceived       atomic.Uint64
	refused, malformed, dropped, exhausted atomic.Uint64
}

// Stats has the figures of this moment.
func (s *Server) Stats() Stats {
	c := &s.counters
	s.mu.Lock()
	sockets := s.reserved
	s.mu.Unlock()
	return Stats{
		Sockets:     uint64(sockets),
		Connections: uint64(max(0, c.connections.Load())),
		Listeners:   uint64(max(0, c.listeners.Load())),
		Datagrams:   uint64(max(0, c.datagrams.Load())),
		Connected:   c.connected.Load(), Accepted: c.accepted.Load(), Failed: c.failed.Load(),
		BytesSent: c.bytesSent.Load(), BytesReceived: c.bytesReceived.Load(),
		DatagramsSent: c.datagramsSent.Load(), DatagramsReceived: c.datagramsReceived.Load(),
		Refused: c.refused.Load(), Malformed: c.malformed.Load(),
		Dropped: c.dropped.Load(), Exhausted: c.exhausted.Load(),
		Goroutines: uint64(runtime.NumGoroutine()),
	}
}
