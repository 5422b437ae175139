package tsi

import (
	"cmp"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a socket of the guest: one in this process's network namespace.
type socket struct {
	srv      *Server
	id       uint32 // set by register
	family   uint16
	protocol int
	datagram bool

	file *os.File // does not block; known to the runtime's poller
	raw  syscall.RawConn
	once sync.Once

	mu     sync.Mutex
	linger [lingerSize]byte
	abort  bool       // close is to reset
	err    unix.Errno // what SO_ERROR has, once, before the socket's own
	local  bool       // bound to an address that stays inside the guest
}

// newSocket makes a socket as SOCKET asks.
func (s *Server) newSocket(family, typ uint16, protocol uint32) (*socket, unix.Errno) {
	datagram := typ == unix.SOCK_DGRAM
	switch {
	case family != familyInet && family != familyInet6:
		return nil, unix.EAFNOSUPPORT
	case typ == unix.SOCK_STREAM && protocol == unix.IPPROTO_TCP:
	case datagram && protocol == unix.IPPROTO_UDP:
	case datagram && family == familyInet && protocol == unix.IPPROTO_ICMP:
	case datagram && family == familyInet6 && protocol == unix.IPPROTO_ICMPV6:
	default:
		return nil, unix.EPROTONOSUPPORT
	}
	if e := s.reserve(datagram); e != 0 {
		return nil, e
	}
	fd, err := unix.Socket(int(family), int(typ)|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		s.release(datagram)
		return nil, hostErrno(err)
	}
	return s.adopt(fd, family, int(protocol)), 0
}

// adopt makes a socket of a descriptor for which there is a reservation.
func (s *Server) adopt(fd int, family uint16, protocol int) *socket {
	k := &socket{srv: s, family: family, protocol: protocol, datagram: protocol != unix.IPPROTO_TCP}
	k.file = os.NewFile(uintptr(fd), "socket")
	k.raw, _ = k.file.SyscallConn() // fails for a nil file only
	return k
}

// hostErrno has the errno for the guest: the host's limit on descriptors is not
// that of the guest's process.
func hostErrno(err error) unix.Errno {
	e, ok := err.(unix.Errno)
	switch {
	case !ok:
		return unix.EIO
	case e == unix.EMFILE:
		return unix.ENFILE
	}
	return e
}

// close closes the socket: with a reset if the guest wants that, otherwise as
// the kernel does. It ends every wait for it.
func (k *socket) close() {
	k.once.Do(func() {
		if !k.datagram && k.aborts() {
			k.control(func(fd int) unix.Errno {
				var v [lingerSize]byte
				v[0] = 1
				return setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, v[:])
			})
		}
		k.file.Close()
		k.srv.release(k.datagram)
	})
}

// control runs f, which does not block, with the descriptor.
func (k *socket) control(f func(fd int) unix.Errno) unix.Errno {
	e := unix.EBADF
	k.raw.Control(func(fd uintptr) { e = f(int(fd)) }) // an error leaves EBADF
	return e
}

// names has the socket's addresses; none for those it does not have.
func (k *socket) names() (local, peer address) {
	k.control(func(fd int) unix.Errno {
		local, peer = localAddress(fd), peerAddress(fd)
		return 0
	})
	return local, peer
}

// setAbort makes close reset the connection.
func (k *socket) setAbort() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.abort = true
}

// fail notes why the connection broke.
func (k *socket) fail(e unix.Errno) {
	if e == 0 || e == unix.EBADF {
		e = unix.ECONNRESET // the error itself was taken before
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = cmp.Or(k.err, e)
}

func (k *socket) storedError() unix.Errno {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// takeError has SO_ERROR, and clears it.
func (k *socket) takeError() unix.Errno {
	k.mu.Lock()
	e := k.err
	k.err = 0
	k.mu.Unlock()
	if e != 0 {
		return e
	}
	k.control(func(fd int) unix.Errno {
		e = socketError(fd)
		return 0
	})
	return e
}

// past is a deadline that ends a wait.
var past = time.Unix(1, 0)

// bind binds the socket; local says that the address stays inside the guest.
func (k *socket) bind(a *address) (local bool, e unix.Errno) {
	if k.srv.policy.keepsInside(a) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.local = true
		return true, 0
	}
	s := newSockaddr(a)
	return false, k.control(func(fd int) unix.Errno { return bind(fd, &s) })
}

func (k *socket) isLocal() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.local
}

// shutdown ends one or both directions.
func (k *socket) shutdown(how int) unix.Errno {
	return k.control(func(fd int) unix.Errno { return shutdown(fd, how) })
}
