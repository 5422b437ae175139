package hostile

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/tsi"
	"runv.dev/runv/virtio/vsock"
)

// maxSockets is how many a guest may have; see guest/tsi.c.
const maxSockets = 32

// network is what serves the guest's sockets, in the test's own network
// namespace, and what they find there: somebody who answers and may be reached,
// and a trap on all addresses for whoever gets past the policy.
type network struct {
	server     *tsi.Server
	echo, trap endpoint
	trapped    atomic.Uint32
	tasks      sync.WaitGroup
}

// endpoint is a TCP and a UDP port of the same number.
type endpoint struct {
	tcp net.Listener
	udp net.PacketConn
}

func listenBoth(address string) (e endpoint, err error) {
	for range 100 {
		if e.tcp, err = net.Listen("tcp", address+":0"); err != nil {
			return e, err
		}
		if e.udp, err = net.ListenPacket("udp", net.JoinHostPort(address, strconv.Itoa(int(e.port())))); err == nil {
			return e, nil
		}
		e.tcp.Close()
	}
	return e, err
}

func (e *endpoint) port() uint16 { return uint16(e.tcp.Addr().(*net.TCPAddr).Port) }

func (e *endpoint) close() error { return errors.Join(e.tcp.Close(), e.udp.Close()) }

// newNetwork serves the TSI port of the device.
func newNetwork(device *vsock.Device, log *slog.Logger) (n *network, err error) {
	n = &network{}
	if n.echo, err = listenBoth("127.0.0.1"); err != nil {
		return nil, err
	}
	if n.trap, err = listenBoth(""); err != nil {
		return nil, errors.Join(err, n.echo.close())
	}
	n.server = tsi.New(tsi.Options{
		Policy: &tsi.Policy{HostNamespace: true, Network: spec.Network{
			Loopback: spec.Reach{Rules: []spec.Rule{{Prefix: netip.MustParsePrefix("127.0.0.1/32"), First: n.echo.port(), Last: n.echo.port()}}},
		}},
		MaxSockets: maxSockets, MaxDatagram: maxSockets / 2,
		FirstTimeout: 2 * time.Second, DrainTimeout: time.Second, Log: log,
	})
	streams, err := device.Listen(tsi.Port)
	if err != nil {
		return nil, err
	}
	packets, err := device.ListenSeqpacket(tsi.Port)
	if err != nil {
		return nil, err
	}
	n.server.Serve(streams, packets)
	n.tasks.Go(n.answer)
	n.tasks.Go(func() { reply(n.echo.udp) })
	n.tasks.Go(func() {
		for {
			c, err := n.trap.tcp.Accept()
			if err != nil {
				return
			}
			n.trapped.Add(1)
			c.Close()
		}
	})
	n.tasks.Go(func() {
		for {
			if _, _, err := n.trap.udp.ReadFrom(make([]byte, 1)); err != nil {
				return
			}
			n.trapped.Add(1)
		}
	})
	return n, nil
}

// answer sends back what comes over TCP.
func (n *network) answer() {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := n.echo.tcp.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer c.Close()
			// Not by splice(2), whose pipes the library keeps. It ends with the
			// guest's side.
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		})
	}
}

// reply sends datagrams back.
func reply(c net.PacketConn) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from) // who is gone gets nothing
	}
}

func (n *network) sockets() uint32 {
	return uint32(n.server.Stats().Sockets)
}

// visit connects to a listener of the guest's, and stays for a moment.
func (n *network) visit(port uint16) {
	n.tasks.Go(func() {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		io.Copy(io.Discard, c) // a guest that does not take it resets it
	})
}

// close ends all, after the VM.
func (n *network) close() error {
	err := errors.Join(n.server.Close(), n.echo.close(), n.trap.close())
	n.tasks.Wait()
	return err
}
