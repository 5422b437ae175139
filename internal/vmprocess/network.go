package vmprocess

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/tsi"
)

const (
	// maxSockets bounds the guest's sockets, where the limit on descriptors
	// allows as many.
	maxSockets = 16384

	// maxConns bounds the guest's connections to the host: one for each of its
	// sockets, and the agent's few.
	maxConns = 20000

	// maxBuffer is what all of them may have received and not passed on, in
	// bytes.
	maxBuffer = 192 << 20

	// maxDatagrams bounds the guest's UDP and ICMP echo sockets, each of which
	// can have a message of 64 KiB under way.
	maxDatagrams = 1024

	// vsockBacklog is how many connections may come in at once.
	vsockBacklog = 1024
)

// impersonate serves the guest's sockets in this process's network namespace. It
// comes before the container's root is entered.
func (m *machine) impersonate() error {
	policy, err := m.process.networkPolicy()
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	// The share takes three quarters of the descriptors.
	sockets := int(min(maxSockets, limit.Cur/5))
	m.network = tsi.New(tsi.Options{Policy: policy, MaxSockets: sockets, MaxDatagram: maxDatagrams, Log: m.process.log.With("device", "tsi")})
	streams, err := m.vsock.Listen(tsi.Port)
	if err != nil {
		return err
	}
	packets, err := m.vsock.ListenSeqpacket(tsi.Port)
	if err != nil {
		return err
	}
	m.network.Serve(streams, packets)
	// Who asks agent.sock for the port gets the figures.
	m.vsock.Answer(tsi.Port, func(client io.Writer) {
		json.NewEncoder(client).Encode(m.network.Stats()) // fails for a client that is gone
	})
	return nil
}

func (p *process) networkPolicy() (*tsi.Policy, error) {
	plan := p.boot.Plan
	host, err := sandbox.InNetwork(p.boot.HostNetworks)
	if err != nil {
		return nil, err
	}
	resolvers, err := nameServers(plan.Binds)
	if err != nil {
		// Not worth more: the engine's file is not this runtime's.
		p.log.Warn("name servers", "err", err)
	}
	p.log.Debug("network", "host", host, "nameservers", resolvers)
	return &tsi.Policy{Network: plan.Network, HostNamespace: host, Resolvers: resolvers}, nil
}

const (
	resolvConf    = "/etc/resolv.conf"
	maxResolvConf = 64 << 10
)

// nameServers reads the name servers that the engine gave the container, by a
// bind mount: what the image says of them is its author's.
func nameServers(binds []spec.Bind) ([]netip.Addr, error) {
	var source string
	for _, b := range binds {
		if b.Destination == resolvConf {
			source = b.Source // the last one is on top
		}
	}
	if source == "" {
		return nil, nil
	}
	f, err := os.OpenFile(source, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", source)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxResolvConf {
		return nil, errors.New(source + ": too long")
	}
	return parseResolvConf(string(data)), nil
}

// maxNameServers is MAXNS of resolver(3).
const maxNameServers = 3

// parseResolvConf has the name servers of a resolv.conf(5).
func parseResolvConf(s string) []netip.Addr {
	var list []netip.Addr
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(list) == maxNameServers {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			list = append(list, a)
		}
	}
	return list
}
