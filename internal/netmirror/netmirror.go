// Package netmirror reads what a network namespace looks like and follows its
// changes, for a guest that is to look the same.
package netmirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"runv.dev/runv/agent/protocol"
)

// groups are the changes that are followed.
const groups = unix.RTMGRP_LINK |
	unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE |
	unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE

// Changes come in groups: one look for all that happen within settle, and not
// more often than one every pause; rarely if there is more than is mirrored.
const (
	settle     = 20 * time.Millisecond
	pause      = time.Second
	pauseLarge = 30 * time.Second
)

// Mirror watches one network namespace. Its methods are for one goroutine.
type Mirror struct {
	query, events *socket
	sysctls       map[string]string
	log           *slog.Logger

	large bool // there is more than is mirrored
}

// Open watches the namespace of the calling thread, which also has to see its
// procfs. Nothing is opened later.
func Open(log *slog.Logger) (*Mirror, error) {
	// Events first: what changes after the first look is seen.
	events, err := openSocket(groups)
	if err != nil {
		return nil, fmt.Errorf("watch the network namespace: %w", err)
	}
	query, err := openSocket(0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the network namespace: %w", err), events.Close())
	}
	return &Mirror{query: query, events: events, sysctls: readSysctls(), log: log}, nil
}

// Descriptors are those of its sockets.
func (m *Mirror) Descriptors() ([]int, error) {
	var list []int
	for _, s := range []*socket{m.query, m.events} {
		if err := s.raw.Control(func(fd uintptr) { list = append(list, int(fd)) }); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Close ends a Follow too.
func (m *Mirror) Close() error { return errors.Join(m.query.Close(), m.events.Close()) }

// readSysctls has those there are: a kernel may lack IPv6.
func readSysctls() map[string]string {
	values := make(map[string]string)
	for _, name := range protocol.NetworkSysctls {
		data, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		value := strings.TrimSpace(string(data))
		if err == nil && value != "" && len(value) <= protocol.MaxSysctl {
			values[name] = value
		}
	}
	return values
}

// Read has what the namespace looks like now.
func (m *Mirror) Read() (*protocol.Network, error) {
	var err error
	for range 3 {
		var n *protocol.Network
		if n, err = m.read(); !errors.Is(err, errInterrupted) {
			return n, err
		}
	}
	return nil, err
}

func (m *Mirror) read() (*protocol.Network, error) {
	n := &protocol.Network{Sysctls: m.sysctls}
	links := make(map[uint32]bool)
	left := 0
	err := m.query.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, make([]byte, unix.SizeofIfInfomsg), func(body []byte) {
		l := decodeLink(body)
		switch {
		case l == nil || l.Index == 0 || protocol.CheckLinkName(l.Name) != nil:
		case len(n.Links) == protocol.MaxLinks:
			left++
		default:
			n.Links = append(n.Links, l)
			links[l.Index] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	err = m.query.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg), func(body []byte) {
		a := decodeAddress(body)
		switch {
		case a == nil || !links[a.Link]:
		case len(n.Addresses) == protocol.MaxAddresses:
			left++
		default:
			n.Addresses = append(n.Addresses, a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofRtMsg)
		header[0], header[4] = family, unix.RT_TABLE_MAIN
		err := m.query.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, header, func(body []byte) {
			r := decodeRoute(body)
			switch {
			case r == nil || r.Family != uint32(family) || !onLinks(r, links):
			case len(n.Routes) == protocol.MaxRoutes:
				left++
			default:
				n.Routes = append(n.Routes, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
	}
	if left > 0 && !m.large {
		m.log.Warn("the network namespace is larger than what the guest shows of it", "left out", left)
	}
	m.large = left > 0
	return n, nil
}

func onLinks(r *protocol.Route, links map[uint32]bool) bool {
	for _, hop := range r.Hops {
		if !links[hop.Link] {
			return false
		}
	}
	return true
}

// Follow calls push with what the namespace looks like whenever that is no more
// what it was: last at first, then what push took. What push fails to take it
// gets again, later. Follow returns when ctx ends or the mirror is closed.
func (m *Mirror) Follow(ctx context.Context, last *protocol.Network, push func(*protocol.Network) error) error {
	stop := context.AfterFunc(ctx, func() { m.events.Close() })
	defer stop()
	failed := false
	for {
		if !failed {
			// What was lost for want of room is a change like any other.
			if _, err := m.events.receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return cause(ctx, err)
			}
		}
		if err := m.drain(settle); err != nil {
			return cause(ctx, err)
		}
		now, err := m.Read()
		if err == nil && !proto.Equal(last, now) {
			if err = push(now); err == nil {
				last = now
			}
		}
		wait := pause
		if failed = err != nil; failed {
			m.log.Warn("show the network namespace to the guest", "err", err)
			wait = pauseLarge
		}
		if m.large {
			wait = pauseLarge
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// drain takes events off the socket for a while.
func (m *Mirror) drain(d time.Duration) error {
	if err := m.events.file.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	for {
		_, err := m.events.receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return m.events.file.SetReadDeadline(time.Time{})
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
