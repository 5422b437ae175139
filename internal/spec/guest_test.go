package spec

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The root's propagation is the guest's; the host only needs to know whether its
// own mounts may come in.
func TestRootfsPropagation(t *testing.T) {
	for mode, private := range map[string]bool{
		"": false, "slave": false, "rslave": false, "shared": false, "rshared": false,
		"private": true, "rprivate": true, "unbindable": true, "runbindable": true,
	} {
		s := Example()
		s.Linux.RootfsPropagation = mode
		p, err := New(s, "/bundle", host)
		if err != nil {
			t.Errorf("%q: %v", mode, err)
			continue
		}
		if p.RootfsPrivate != private || p.Spec.Linux.RootfsPropagation != mode {
			t.Errorf("%q: private %v, in the guest %q; want %v", mode, p.RootfsPrivate, p.Spec.Linux.RootfsPropagation, private)
		}
	}
}

// users has a user namespace with one range of ids.
func users(container, host, size uint32) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	}
}

// The user namespace is the guest's alone, also one that is to be joined: what
// counts are its mappings.
func TestUserNamespace(t *testing.T) {
	for _, path := range []string{"", "/proc/1/ns/user"} {
		s := minimal()
		users(0, 100000, 65536)(s)
		s.Linux.Namespaces[0].Path = path
		p, err := New(s, "/bundle", host)
		if err != nil {
			t.Fatal(err)
		}
		guest := p.Spec.Linux
		if len(p.Namespaces) != 0 || len(guest.Namespaces) != 1 || guest.Namespaces[0] != (specs.LinuxNamespace{Type: "user"}) {
			t.Errorf("on the host %v, in the guest %v", p.Namespaces, guest.Namespaces)
		}
		if len(guest.UIDMappings) != 1 || len(guest.GIDMappings) != 1 {
			t.Errorf("mappings in the guest: %v, %v", guest.UIDMappings, guest.GIDMappings)
		}
	}
}

// TestMountOptions has what is accepted of a mount though it does little.
func TestMountOptions(t *testing.T) {
	s := minimal()
	s.Mounts = []specs.Mount{
		{Destination: "/a", Source: "/x", Options: []string{"bind", "size=1k", "ro", "unbindable"}},
		{Destination: "/b", Type: "tmpfs", Options: []string{"size=1k", "rshared"}},
	}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], `"size=1k" has no effect`) {
		t.Errorf("warnings %q", p.Warnings)
	}
	if got := strings.Join(p.Spec.Mounts[0].Options, " "); got != "bind ro unbindable" || p.Binds[0].Propagation != unix.MS_PRIVATE {
		t.Errorf("a bind mount has %q in the guest and propagation %#x on the host", got, p.Binds[0].Propagation)
	}
	if got := strings.Join(p.Spec.Mounts[1].Options, " "); got != "size=1k rshared" {
		t.Errorf("a tmpfs has %q in the guest", got)
	}
}

// TestDevices: what every Linux guest has under the same number is accepted.
func TestDevices(t *testing.T) {
	for name, number := range map[string][2]int64{
		"null": {1, 3}, "kmsg": {1, 11}, "tty": {5, 0}, "fuse": {10, 229}, "net/tun": {10, 200},
	} {
		s := minimal()
		device(specs.LinuxDevice{Path: "/dev/" + name, Type: "c", Major: number[0], Minor: number[1]})(s)
		if _, err := New(s, "/bundle", host); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What --privileged of an engine asks for: all devices of the host.
func TestDevicesLeftOut(t *testing.T) {
	s := minimal()
	s.Annotations = map[string]string{AnnotationDevices: DevicesAvailable}
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}, {Path: "/dev/pipe", Type: "p"}}
	for minor := range 2 * int64(maxNames) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: fmt.Sprint("/dev/loop", minor), Type: "b", Major: 7, Minor: minor})
	}
	p, err := New(s, "/bundle", host)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Spec.Linux.Devices; len(got) != 2 || got[0].Path != "/dev/net/tun" || got[1].Path != "/dev/pipe" {
		t.Errorf("the guest gets %v", got)
	}
	if len(p.Warnings) != 1 || !strings.HasSuffix(p.Warnings[0], "/dev/loop7 and 8 more") {
		t.Errorf("warnings %q", p.Warnings)
	}
	if len(s.Linux.Devices) != 2+2*maxNames {
		t.Error("the configuration has changed")
	}
}
