//go:build integration

package integration

import (
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
		must(t, ping([4]byte{10, 9, 8, 1}))
		return
	}
	noLeaks(t)
	name := netns(t)
	ip(t, "-n", name, "link", "set", "outer", "netns", strconv.Itoa(os.Getpid()))
	ip(t, "addr", "add", "10.9.8.1/24", "dev", "outer")
	ip(t, "link", "set", "outer", "up")
	dir := bundleOfSelf(t, "TestPing", inNetns(name))
	if r := runv(t, nil, "run", "-b", dir, newID()); r.status != 0 {
		t.Errorf("%+v", r)
	}
	// That of busybox asks for a raw socket first.
	dir = bundle(t, []string{"busybox", "ping", "-q", "-c", "1", "-W", "20", "10.9.8.1"}, inNetns(name), func(s *specs.Spec) {
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_NET_RAW")
		}
	})
	if r := runv(t, nil, "run", "-b", dir, newID()); r.status != 0 {
		t.Errorf("busybox: %+v", r)
	}
}

// ping sends an ICMP echo request and waits for its reply.
func ping(to [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		return err
	}
	request := []byte{8, 0, 0, 0, 0, 0, 0, 1} // type, code, checksum, id, sequence number
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	reply := make([]byte, 100)
	n, err := unix.Read(fd, reply)
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n != len(request) || reply[0] != 0 || reply[7] != 1 {
		return fmt.Errorf("the reply is %x", reply[:n])
	}
	return nil
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
