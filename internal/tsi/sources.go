package tsi

import (
	"net/netip"
	"slices"
	"sync"
)

// sources are the latest loopback addresses that a socket has got datagrams
// from, where policy keeps it from sending to loopback on its own: it may
// answer. A nil *sources remembers nothing.
type sources struct {
	mu   sync.Mutex
	ring [64]netip.AddrPort
	next int
}

func (s *sources) add(a *address) {
	if s == nil || a.family == familyNone || !isLoopback(a.addr()) {
		return
	}
	from := netip.AddrPortFrom(a.addr(), a.port)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.ring[:], from) {
		s.ring[s.next] = from
		s.next = (s.next + 1) % len(s.ring)
	}
}

func (s *sources) has(a *address) bool {
	if s == nil || a.family == familyNone {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.ring[:], netip.AddrPortFrom(a.addr(), a.port))
}
