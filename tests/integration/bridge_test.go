//go:build integration

package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestBridgeInGuest connects the container's own sockets with those of a network
// namespace behind a bridge that was made in the guest, as a container engine
// there does, both ways.
func TestBridgeInGuest(t *testing.T) {
	if os.Getenv(inGuest) != "" {
		besideBridge(t)
		return
	}
	noLeaks(t)
	name := netns(t)
	dir := bundleOfSelf(t, "TestBridgeInGuest", inNetns(name), func(s *specs.Spec) {
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN")
		}
		// For ip(8), which is not static.
		for _, d := range []string{"/usr", "/lib", "/lib64"} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Source: d, Type: "bind", Options: []string{"rbind", "ro"}})
		}
	})
	if r := runv(t, nil, "run", "-b", dir, newID()); r.status != 0 {
		t.Errorf("%+v", r)
	}
}

const echoPort = 7000

// besideBridge is the part in the guest.
func besideBridge(t *testing.T) {
	inner, err := newInner()
	must(t, err)
	ip(t, "link", "add", "br0", "type", "bridge")
	ip(t, "link", "add", "port0", "type", "veth", "peer", "name", "eth1", "netns", inner.thread)
	ip(t, "link", "set", "port0", "master", "br0", "up")
	ip(t, "address", "add", "10.200.0.1/24", "dev", "br0")
	ip(t, "address", "add", "fd00:200::1/64", "dev", "br0", "nodad")
	ip(t, "link", "set", "br0", "up")
	for _, args := range []string{
		"address add 10.200.0.2/24 dev eth1", "address add fd00:200::2/64 dev eth1 nodad", "link set eth1 up", "link set lo up",
		"route add default via 10.200.0.1",
	} {
		must(t, inner.do(func() error { return exec.Command("ip", strings.Fields(args)...).Run() }))
	}
	inside := func(f func() error) error { return inner.do(f) }
	here := func(f func() error) error { return f() }
	must(t, inside(echo))
	must(t, here(echo))
	for _, c := range []struct {
		from, network, to string
		in                func(func() error) error
	}{
		{"the container", "tcp4", "10.200.0.2", here},
		{"the container", "tcp6", "fd00:200::2", here},
		{"the container", "udp4", "10.200.0.2", here},
		{"the container", "udp6", "fd00:200::2", here},
		{"inside", "tcp4", "10.200.0.1", inside},
		{"inside", "tcp6", "fd00:200::1", inside},
		{"inside", "udp4", "10.200.0.1", inside},
		{"inside", "udp6", "fd00:200::1", inside},
		// The mirrored one's, which the server has outside, too.
		{"inside", "tcp4", "10.9.8.7", inside},
	} {
		to := net.JoinHostPort(c.to, strconv.Itoa(echoPort))
		if err := c.in(func() error { return askEcho(c.network, to) }); err != nil {
			t.Errorf("%s to %s %s: %v", c.from, c.network, to, err)
		}
	}
	// A socket that has been outside, and one without a peer.
	if err := unconnected("10.9.8.1:9", "10.200.0.2:"+strconv.Itoa(echoPort)); err != nil {
		t.Errorf("UDP without a peer: %v", err)
	}
	if _, err := net.Dial("tcp", "10.200.0.2:1"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	for _, to := range []unix.Sockaddr{
		&unix.SockaddrInet4{Addr: [4]byte{10, 200, 0, 2}},
		&unix.SockaddrInet6{Addr: [16]byte{0: 0xfd, 2: 2, 15: 2}},
	} {
		for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
			if err := ping(kind, to); err != nil {
				t.Errorf("ping %v, socket type %d: %v", to, kind, err)
			}
		}
	}
	// The way is outside again.
	ip(t, "link", "del", "br0")
	if _, err := net.DialTimeout("tcp", "10.200.0.2:"+strconv.Itoa(echoPort), 30*time.Second); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("without the bridge: %v", err)
	}
}

// inner is a thread in a network namespace of its own.
type inner struct {
	thread string // its id
	tasks  chan func()
}

func newInner() (*inner, error) {
	in := &inner{tasks: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		in.thread = strconv.Itoa(unix.Gettid())
		ready <- os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
		for f := range in.tasks {
			f()
		}
	}()
	return in, <-ready
}

func (in *inner) do(f func() error) error {
	done := make(chan error)
	in.tasks <- func() { done <- f() }
	return <-done
}

// echo serves TCP and UDP on all addresses of the thread's namespace.
func echo() error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// patience is for one answer.
const patience = 20 * time.Second

// askEcho sends a line to the server, and wants it back.
func askEcho(network, to string) error {
	c, err := net.DialTimeout(network, to, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	return wantHello(c.Read)
}

func wantHello(read func([]byte) (int, error)) error {
	b := make([]byte, 100)
	n, err := read(b)
	if err == nil && string(b[:n]) != "hello" {
		err = fmt.Errorf("got %q", b[:n])
	}
	return err
}

// unconnected sends from one socket to outside and then to the server, and wants
// the server's answer.
func unconnected(outside, server string) error {
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	for _, to := range []string{outside, server} {
		a, err := net.ResolveUDPAddr("udp4", to)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("hello"), a); err != nil {
			return fmt.Errorf("to %s: %w", to, err)
		}
	}
	return wantHello(func(b []byte) (int, error) {
		n, _, err := c.ReadFrom(b)
		return n, err
	})
}
