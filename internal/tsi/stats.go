package tsi

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are what the server has counted since it was made, and what is open.
type Stats struct {
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
	return Stats{
		Connections: uint64(max(0, c.connections.Load())),
		Listeners:   uint64(max(0, c.listeners.Load())),
		Datagrams:   uint64(max(0, c.datagrams.Load())),
		Connected:   c.connected.Load(), Accepted: c.accepted.Load(), Failed: c.failed.Load(),
		BytesSent: c.bytesSent.Load(), BytesReceived: c.bytesReceived.Load(),
		DatagramsSent: c.datagramsSent.Load(), DatagramsReceived: c.datagramsReceived.Load(),
		Refused: c.refused.Load(), Malformed: c.malformed.Load(),
		Dropped: c.dropped.Load(), Exhausted: c.exhausted.Load(),
	}
}

// logInterval is the time between two lines about the same thing.
const logInterval = 10 * time.Second

// limitedLog logs what a guest can cause, at a bounded rate: of each message one
// line in a while, with the number of those left out.
type limitedLog struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]*logged // by message, which is the program's own
}

type logged struct {
	at   time.Time
	more uint64 // since
}

func newLimitedLog(log *slog.Logger) *limitedLog {
	return &limitedLog{log: log, last: make(map[string]*logged)}
}

func (l *limitedLog) warn(msg string, args ...any)  { l.add(slog.LevelWarn, msg, args) }
func (l *limitedLog) error(msg string, args ...any) { l.add(slog.LevelError, msg, args) }

func (l *limitedLog) add(level slog.Level, msg string, args []any) {
	l.mu.Lock()
	e := l.last[msg]
	if e == nil {
		e = &logged{}
		l.last[msg] = e
	}
	now := time.Now()
	if now.Sub(e.at) < logInterval {
		e.more++
		l.mu.Unlock()
		return
	}
	more := e.more
	e.at, e.more = now, 0
	l.mu.Unlock()
	if more > 0 {
		args = append(args, "more", more)
	}
	l.log.Log(context.Background(), level, msg, args...)
}
