package main

import (
	"context"
	"errors"
	"net"
	"os"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

const (
	// netns is the network namespace of containers that something outside of them
	// talks to, with a loopback device. It is not the host's own: there, loopback
	// is not for runv's guests.
	netns     = "runv-bench"
	netnsPath = "/run/netns/" + netns
	// address is where they meet.
	address = "127.0.0.1"

	// bridged is a namespace as engines make them: its eth0 is a port of a bridge
	// that the other one has.
	bridged        = "runv-bench-bridged"
	bridgedPath    = "/run/netns/" + bridged
	bridgedAddress = "10.117.0.2"
	// bridgeAddress is that of the other namespace.
	bridgeAddress = "10.117.0.1"
	bridgeBits    = "24"
)

// inNetns is the namespace of a config.json.
var inNetns = inNamespace(netnsPath)

func inNamespace(path string) object { return object{"type": "network", "path": path} }

// makeNetns makes the namespace; end removes it.
func makeNetns(ctx context.Context) (end func() error, err error) {
	end = func() error { return output(context.WithoutCancel(ctx), "ip", "netns", "del", netns) }
	if err := output(ctx, "ip", "netns", "add", netns); err != nil {
		return nil, err
	}
	if err := output(ctx, "ip", "-n", netns, "link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// makeBridged makes the namespace behind a bridge; end removes it.
func makeBridged(ctx context.Context) (end func() error, err error) {
	end = func() error { return output(context.WithoutCancel(ctx), "ip", "netns", "del", bridged) }
	if err := output(ctx, "ip", "netns", "add", bridged); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"-n", bridged, "link", "set", "lo", "up"},
		{"-n", netns, "link", "add", "bridge0", "type", "bridge"},
		{"-n", netns, "link", "add", "port0", "type", "veth", "peer", "name", "eth0", "netns", bridged},
		{"-n", netns, "link", "set", "port0", "master", "bridge0", "up"},
		{"-n", netns, "address", "add", bridgeAddress + "/" + bridgeBits, "dev", "bridge0"},
		{"-n", netns, "link", "set", "bridge0", "up"},
		{"-n", bridged, "address", "add", bridgedAddress + "/" + bridgeBits, "dev", "eth0"},
		{"-n", bridged, "link", "set", "eth0", "up"},
		{"-n", bridged, "route", "add", "default", "via", bridgeAddress},
	} {
		if err := output(ctx, "ip", args...); err != nil {
			return nil, errors.Join(err, end())
		}
	}
	return end, nil
}

// dialNetns connects from inside the namespace.
func dialNetns(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with this function, and nobody else finds
		// itself in the namespace.
		goruntime.LockOSThread()
		f, err := os.Open(netnsPath)
		if err == nil {
			err = os.NewSyscallError("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWNET))
			f.Close()
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
