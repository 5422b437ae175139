package tsi

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// access says what a guest may do with a socket option.
type access uint8

const (
	mayGet access = 1 << iota
	maySet
	mayBoth = mayGet | maySet
)

type optionKey struct{ level, name uint32 }

// option is a socket option that means for the guest's socket what it means for
// the host's.
type option struct {
	access   access
	min, max int // bytes of a value to be set; the kernel ignores what is beyond
}

func number(a access) option              { return option{a, 4, 4} }
func small(a access) option               { return option{a, 1, 4} } // a byte will do
func structure(a access, n ...int) option { return option{a, n[0], n[len(n)-1]} }

// options are the socket options that reach the host's sockets. What is not
// here does not exist for a guest: above all, nothing that changes how packets
// are marked, filtered or routed, what VMM code gets to see of the socket, or
// when it becomes ready.
var options = map[optionKey]option{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_TYPE}:            number(mayGet),
	{unix.SOL_SOCKET, unix.SO_ERROR}:           number(mayGet),
	{unix.SOL_SOCKET, unix.SO_DONTROUTE}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_BROADCAST}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_SNDBUF}:          number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_RCVBUF}:          number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_OOBINLINE}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_NO_CHECK}:        number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_PRIORITY}:        number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_LINGER}:          structure(mayBoth, lingerSize),
	{unix.SOL_SOCKET, unix.SO_REUSEPORT}:       number(mayBoth),
	{unix.SOL_SOCKET, unix.SO_ACCEPTCONN}:      number(mayGet),
	{unix.SOL_SOCKET, unix.SO_PROTOCOL}:        number(mayGet),
	{unix.SOL_SOCKET, unix.SO_DOMAIN}:          number(mayGet),
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE}: structure(mayBoth, 4, 8),
	{unix.SOL_SOCKET, unix.SO_COOKIE}:          structure(mayGet, 8),

	{unix.SOL_IP, unix.IP_TOS}:                    small(mayBoth),
	{unix.SOL_IP, unix.IP_TTL}:                    small(mayBoth),
	{unix.SOL_IP, unix.IP_MTU_DISCOVER}:           small(mayBoth),
	{unix.SOL_IP, unix.IP_RECVERR}:                small(mayBoth),
	{unix.SOL_IP, unix.IP_MTU}:                    small(mayGet),
	{unix.SOL_IP, unix.IP_FREEBIND}:               small(mayBoth),
	{unix.SOL_IP, unix.IP_MINTTL}:                 small(mayBoth),
	{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT}:   small(mayBoth),
	{unix.SOL_IP, unix.IP_MULTICAST_IF}:           structure(mayBoth, 4, 12),
	{unix.SOL_IP, unix.IP_MULTICAST_TTL}:          small(mayBoth),
	{unix.SOL_IP, unix.IP_MULTICAST_LOOP}:         small(mayBoth),
	{unix.SOL_IP, unix.IP_MULTICAST_ALL}:          small(mayBoth),
	{unix.SOL_IP, unix.IP_UNICAST_IF}:             number(mayBoth),
	{unix.SOL_IP, unix.IP_LOCAL_PORT_RANGE}:       number(mayBoth),
	{unix.SOL_IP, unix.IP_ADD_MEMBERSHIP}:         structure(maySet, 8, 12),
	{unix.SOL_IP, unix.IP_DROP_MEMBERSHIP}:        structure(maySet, 8, 12),
	{unix.SOL_IP, unix.IP_ADD_SOURCE_MEMBERSHIP}:  structure(maySet, 12),
	{unix.SOL_IP, unix.IP_DROP_SOURCE_MEMBERSHIP}: structure(maySet, 12),
	{unix.SOL_IP, unix.IP_BLOCK_SOURCE}:           structure(maySet, 12),
	{unix.SOL_IP, unix.IP_UNBLOCK_SOURCE}:         structure(maySet, 12),
	{unix.SOL_IP, unix.MCAST_JOIN_GROUP}:          structure(maySet, groupSize),
	{unix.SOL_IP, unix.MCAST_LEAVE_GROUP}:         structure(maySet, groupSize),
	{unix.SOL_IP, unix.MCAST_JOIN_SOURCE_GROUP}:   structure(maySet, groupSourceSize),
	{unix.SOL_IP, unix.MCAST_LEAVE_SOURCE_GROUP}:  structure(maySet, groupSourceSize),
	{unix.SOL_IP, unix.MCAST_BLOCK_SOURCE}:        structure(maySet, groupSourceSize),
	{unix.SOL_IP, unix.MCAST_UNBLOCK_SOURCE}:      structure(maySet, groupSourceSize),

	{unix.SOL_IPV6, unix.IPV6_V6ONLY}:              number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS}:        number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_TCLASS}:              number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER}:        number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MTU}:                 number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_RECVERR}:             number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_DONTFRAG}:            number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_AUTOFLOWLABEL}:       number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_ADDR_PREFERENCES}:    number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT}:         number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_UNICAST_IF}:          number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_FREEBIND}:            number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF}:        number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS}:      number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP}:      number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL}:       number(mayBoth),
	{unix.SOL_IPV6, unix.IPV6_JOIN_GROUP}:          structure(maySet, 20),
	{unix.SOL_IPV6, unix.IPV6_LEAVE_GROUP}:         structure(maySet, 20),
	{unix.SOL_IPV6, unix.MCAST_JOIN_GROUP}:         structure(maySet, groupSize),
	{unix.SOL_IPV6, unix.MCAST_LEAVE_GROUP}:        structure(maySet, groupSize),
	{unix.SOL_IPV6, unix.MCAST_JOIN_SOURCE_GROUP}:  structure(maySet, groupSourceSize),
	{unix.SOL_IPV6, unix.MCAST_LEAVE_SOURCE_GROUP}: structure(maySet, groupSourceSize),
	{unix.SOL_IPV6, unix.MCAST_BLOCK_SOURCE}:       structure(maySet, groupSourceSize),
	{unix.SOL_IPV6, unix.MCAST_UNBLOCK_SOURCE}:     structure(maySet, groupSourceSize),

	{unix.SOL_TCP, unix.TCP_NODELAY}:              number(mayBoth),
	{unix.SOL_TCP, unix.TCP_MAXSEG}:               number(mayBoth),
	{unix.SOL_TCP, unix.TCP_CORK}:                 number(mayBoth),
	{unix.SOL_TCP, unix.TCP_KEEPIDLE}:             number(mayBoth),
	{unix.SOL_TCP, unix.TCP_KEEPINTVL}:            number(mayBoth),
	{unix.SOL_TCP, unix.TCP_KEEPCNT}:              number(mayBoth),
	{unix.SOL_TCP, unix.TCP_SYNCNT}:               number(mayBoth),
	{unix.SOL_TCP, unix.TCP_LINGER2}:              number(mayBoth),
	{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}:         number(mayBoth),
	{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP}:         number(mayBoth),
	{unix.SOL_TCP, unix.TCP_INFO}:                 structure(mayGet, maxOption),
	{unix.SOL_TCP, unix.TCP_QUICKACK}:             number(mayBoth),
	{unix.SOL_TCP, unix.TCP_CONGESTION}:           structure(mayBoth, 1, 16),
	{unix.SOL_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS}: number(mayBoth),
	{unix.SOL_TCP, unix.TCP_THIN_DUPACK}:          number(mayBoth),
	{unix.SOL_TCP, unix.TCP_USER_TIMEOUT}:         number(mayBoth),
	{unix.SOL_TCP, unix.TCP_FASTOPEN}:             number(mayBoth),
	{unix.SOL_TCP, unix.TCP_TIMESTAMP}:            number(mayGet),
	{unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT}:        number(mayBoth),
	{unix.SOL_TCP, unix.TCP_CC_INFO}:              structure(mayGet, maxOption),
}

// Sizes of structures: linger, group_req, group_source_req.
const (
	lingerSize      = 8
	groupSize       = 136
	groupSourceSize = 264
)

// setOption sets an option as the guest asks.
func (s *socket) setOption(level, name uint32, value []byte) unix.Errno {
	o, ok := options[optionKey{level, name}]
	switch {
	case !ok || o.access&maySet == 0:
		return unix.ENOPROTOOPT
	case len(value) < o.min:
		return unix.EINVAL
	}
	value = value[:min(len(value), o.max)]
	if level == unix.SOL_SOCKET && name == unix.SO_LINGER {
		// Kept here: close(2) of a socket that lingers blocks its caller.
		s.mu.Lock()
		defer s.mu.Unlock()
		s.linger = [lingerSize]byte(value)
		return 0
	}
	return s.control(func(fd int) unix.Errno { return setsockopt(fd, level, name, value) })
}

// getOption gets an option's value, of at most room bytes.
func (s *socket) getOption(level, name uint32, room int) ([]byte, unix.Errno) {
	o, ok := options[optionKey{level, name}]
	if !ok || o.access&mayGet == 0 {
		return nil, unix.ENOPROTOOPT
	}
	value := make([]byte, room)
	if level == unix.SOL_SOCKET {
		switch name {
		case unix.SO_LINGER:
			s.mu.Lock()
			defer s.mu.Unlock()
			return value[:copy(value, s.linger[:])], 0
		case unix.SO_ERROR:
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], uint32(s.takeError()))
			return value[:copy(value, b[:])], 0
		}
	}
	n := 0
	e := s.control(func(fd int) (e unix.Errno) {
		n, e = getsockopt(fd, level, name, value)
		return e
	})
	return value[:n], e
}

// aborts reports whether the guest has set SO_LINGER so that close resets.
func (s *socket) aborts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	le := binary.LittleEndian
	return s.abort || (le.Uint32(s.linger[:]) != 0 && le.Uint32(s.linger[4:]) == 0)
}
