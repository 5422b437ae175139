//go:build integration

package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ip runs ip(8) on the host.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
	return string(out)
}

// netns makes a network namespace with a device that is up, as a network plugin
// does, and has its name.
func netns(t *testing.T) string {
	t.Helper()
	name := newID()
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		ip(t, "netns", "del", name)
		// ip(8) makes a mount point of it, which is to go with the last one.
		if left, err := os.ReadDir("/run/netns"); err != nil || len(left) > 0 {
			return
		}
		if out, err := exec.Command("umount", "/run/netns").CombinedOutput(); err != nil {
			t.Errorf("umount /run/netns: %v: %s", err, out)
		}
	})
	in := func(args ...string) { ip(t, append([]string{"-n", name}, args...)...) }
	in("link", "set", "lo", "up")
	in("link", "add", "eth0", "index", "7", "mtu", "1400", "address", "02:11:22:33:44:55", "type", "veth", "peer", "name", "outer")
	in("link", "set", "outer", "up")
	in("link", "set", "eth0", "up")
	in("addr", "add", "10.9.8.7/24", "brd", "+", "dev", "eth0")
	in("addr", "add", "fd09:8::7/64", "dev", "eth0", "nodad")
	in("route", "add", "default", "via", "10.9.8.1")
	in("-6", "route", "add", "default", "via", "fd09:8::1")
	return name
}

func inNetns(name string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = "/run/netns/" + name
			}
		}
	}
}

// shown has what busybox says of a network: what programs look at first.
const shown = `busybox ip addr show eth0; busybox ip link show lo; busybox ip route; busybox ip -6 route | busybox sort;
cat /sys/class/net/eth0/operstate /sys/class/net/eth0/carrier; busybox sort /proc/net/if_inet6`

// onHost is what shown says in the namespace itself.
func onHost(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", name, "busybox", "sh", "-c", shown).CombinedOutput()
	if err != nil {
		t.Logf("%v: %s", err, out)
	}
	return string(out)
}

// comparable drops what a dummy cannot have: the peer of a veth, queues; that
// an address is not looked for again shows as a flag.
func comparable(text string) string {
	for _, drop := range []string{"@outer", "@if8", "M-DOWN,", " qdisc noqueue", " qdisc noop", " link-netnsid 0"} {
		text = strings.ReplaceAll(text, drop, "")
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintln(&b, strings.Join(strings.Fields(line), " "))
	}
	// IFA_F_NODAD
	text = regexp.MustCompile(` 82 (eth0|outer)\n`).ReplaceAllString(b.String(), " 80 $1\n")
	return strings.ReplaceAll(text, " flags 02\n", "\n")
}

func TestMirror(t *testing.T) {
	noLeaks(t)
	name := netns(t)
	dir := bundle(t, []string{"sh", "-c", `read go; ` + shown + `; echo end; read go; ` + shown + `; echo end; read go`}, inNetns(name))
	b := inBackground(t, "run", "-b", dir, newID())
	// The guest does not show that the namespace still looks for duplicates.
	for end := time.Now().Add(time.Minute); ip(t, "-n", name, "-6", "addr", "show", "tentative") != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("addresses stay tentative")
		}
	}
	look := func() string {
		_, err := fmt.Fprintln(b.in)
		must(t, err)
		var text strings.Builder
		for {
			line := b.out.wait(t, "")
			if line == "end" {
				return comparable(text.String())
			}
			fmt.Fprintln(&text, line)
		}
	}
	if got, want := look(), comparable(onHost(t, name)); got != want {
		t.Errorf("in the guest:\n%s\nin the namespace:\n%s", got, want)
	}
	// An engine connects the running container to another network.
	in := func(args ...string) { ip(t, append([]string{"-n", name}, args...)...) }
	in("addr", "add", "192.168.77.1/24", "dev", "eth0")
	in("addr", "del", "10.9.8.7/24", "dev", "eth0")
	in("route", "add", "172.20.0.0/16", "via", "192.168.77.254")
	time.Sleep(5 * time.Second)
	if got, want := look(), comparable(onHost(t, name)); got != want {
		t.Errorf("after a change, in the guest:\n%s\nin the namespace:\n%s", got, want)
	}
	fmt.Fprintln(b.in)
	if status := b.end(t); status != 0 {
		t.Errorf("status %d: %s", status, b.stderr.String())
	}
}

// TestNetworkSysctls: parameters of the network are in force in the namespace,
// where the sockets are, and the guest shows them.
func TestNetworkSysctls(t *testing.T) {
	noLeaks(t)
	name := netns(t)
	program := `cd /proc/sys/net; read go; cat ipv4/ip_unprivileged_port_start ipv4/ping_group_range core/somaxconn ipv4/conf/eth0/rp_filter`
	dir := bundle(t, []string{"sh", "-c", program}, inNetns(name), func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "80",
			"net.ipv4.ping_group_range":           "0 5",
			"net/ipv4/conf/eth0/rp_filter":        "2",
		}
	})
	ip(t, "netns", "exec", name, "busybox", "sysctl", "-qw", "net.core.somaxconn=123")
	b := inBackground(t, "run", "-b", dir, newID())
	_, err := fmt.Fprintln(b.in)
	must(t, err)
	for _, want := range []string{"80", "0\t5", "123", "2"} {
		if got := b.out.wait(t, ""); got != want {
			t.Errorf("in the guest: %q; want %q", got, want)
		}
	}
	if status := b.end(t); status != 0 {
		t.Errorf("status %d: %s", status, b.stderr.String())
	}
	got := ip(t, "netns", "exec", name, "busybox", "sysctl", "-n",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.conf.eth0.rp_filter")
	if want := "80\n0\t5\n2\n"; got != want {
		t.Errorf("in the namespace: %q; want %q", got, want)
	}
}

// TestPing: root can ping without an engine that sees to it. In the guest it is
// the program that does.
func TestPing(t *testing.T) {
	if os.Getenv(inGuest) != "" {
		for _, to := range []unix.Sockaddr{
			&unix.SockaddrInet4{Addr: [4]byte{10, 9, 8, 1}},
			&unix.SockaddrInet6{Addr: [16]byte{0: 0xfd, 1: 9, 3: 8, 15: 1}},
			&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}},
		} {
			for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
				if err := ping(kind, to); err != nil {
					t.Errorf("%v, socket type %d: %v", to, kind, err)
				}
			}
		}
		return
	}
	noLeaks(t)
	name := netns(t)
	ip(t, "-n", name, "link", "set", "outer", "netns", strconv.Itoa(os.Getpid()))
	ip(t, "addr", "add", "10.9.8.1/24", "dev", "outer")
	ip(t, "addr", "add", "fd09:8::1/64", "dev", "outer", "nodad")
	ip(t, "link", "set", "outer", "up")
	edit := func(s *specs.Spec) {
		inNetns(name)(s)
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_NET_RAW")
		}
	}
	for _, dir := range []string{
		bundleOfSelf(t, "TestPing", edit),
		bundle(t, []string{"busybox", "ping", "-q", "-c", "2", "-W", "20", "10.9.8.1"}, edit),
		bundle(t, []string{"busybox", "ping6", "-q", "-c", "2", "-W", "20", "fd09:8::1"}, edit),
	} {
		if r := runv(t, nil, "run", "-b", dir, newID()); r.status != 0 {
			t.Errorf("%+v", r)
		}
	}
}

// ping sends an ICMP echo request from a socket of the given type, and checks
// the reply.
func ping(kind int, to unix.Sockaddr) error {
	const id, seq = 0x1234, 0x5678
	domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	request, reply, header := byte(8), byte(0), 20
	if _, ok := to.(*unix.SockaddrInet6); ok {
		domain, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
		request, reply, header = 128, 129, 0
	}
	if kind != unix.SOCK_RAW {
		header = 0
	}
	fd, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		return err
	}
	sent := []byte{request, 0, 0, 0, id >> 8, id & 0xff, seq >> 8, seq & 0xff, 'd', 'a', 't', 'a'}
	if domain == unix.AF_INET {
		binary.BigEndian.PutUint16(sent[2:], checksum(sent))
	}
	if err := unix.Sendto(fd, sent, 0, to); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		buf := make([]byte, 100)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if n < header+8 {
			return fmt.Errorf("the reply is %x", buf[:n])
		}
		ip, got := buf[:header], buf[header:n]
		if got[0] == request {
			continue // over loopback a raw socket hears itself
		}
		switch {
		case got[0] != reply || got[1] != 0 || !bytes.Equal(got[6:], sent[6:]):
			return fmt.Errorf("the reply is %x", buf[:n])
		case kind == unix.SOCK_RAW && !bytes.Equal(got[4:6], sent[4:6]):
			return fmt.Errorf("the reply's identifier is %x; want that of the request", got[4:6])
		case domain == unix.AF_INET && checksum(got) != 0:
			return fmt.Errorf("wrong checksum: %x", got)
		case header != 0 && (ip[0] != 0x45 || ip[9] != byte(protocol) || int(binary.BigEndian.Uint16(ip[2:])) != n || checksum(ip) != 0):
			return fmt.Errorf("the IP header is %x", ip)
		}
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			if want := to.(*unix.SockaddrInet4).Addr; a.Addr != want || header != 0 && [4]byte(ip[12:]) != want {
				return fmt.Errorf("the reply is from %v", a)
			}
		case *unix.SockaddrInet6:
			if a.Addr != to.(*unix.SockaddrInet6).Addr {
				return fmt.Errorf("the reply is from %v", a)
			}
		}
		return nil
	}
}

// checksum is that of RFC 1071; over data that contains its own it is 0.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// TestHostSysctls: what would change the host's own network is refused.
func TestHostSysctls(t *testing.T) {
	noLeaks(t)
	for path, want := range map[string]string{
		"":                  "the container has no network namespace of its own",
		"/proc/self/ns/net": "/proc/self/ns/net is its network namespace",
	} {
		dir := bundle(t, []string{"true"}, func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
				return ns.Type == specs.NetworkNamespace
			})
			if path != "" {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
			}
		})
		r := runv(t, nil, "run", "-b", dir, newID())
		r.expect(t, "", "*", 1)
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%q: %q; want %q", path, r.stderr, want)
		}
	}
}
