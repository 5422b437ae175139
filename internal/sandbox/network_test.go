package sandbox

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/thread"
)

func TestHostNetworks(t *testing.T) {
	target, _ := launch(t, "ok", func(o *Options) {
		o.Namespaces = []spec.Namespace{{Type: specs.NetworkNamespace}}
	})
	_, err := target.Create(bootstrap())
	must(t, err)
	for _, c := range []struct {
		name string
		list []spec.Namespace
		want bool
	}{
		{"none", nil, true},
		{"its own", []spec.Namespace{{Type: specs.NetworkNamespace}}, false},
		{"the host's, by path", []spec.Namespace{{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}}, true},
		{"the host's, by another path", []spec.Namespace{{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", os.Getpid())}}, true},
		{"a container's, by path", []spec.Namespace{{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", target.Pid)}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			networks, err := HostNetworks()
			must(t, err)
			p, log := launch(t, "network", func(o *Options) { o.Namespaces = c.list })
			b := bootstrap()
			b.HostNetworks = networks
			_, err = p.Create(b)
			must(t, err)
			if got, want := log(), fmt.Sprintf("host %v <nil>\n", c.want); got != want {
				t.Errorf("the VM process says %q, want %q", got, want)
			}
		})
	}
}

// TestAllowPing: root can ping in a namespace of the container's, and what
// somebody has set stays.
func TestAllowPing(t *testing.T) {
	for _, c := range []struct {
		name, before, after string
		host                bool
	}{
		{"new", "", "0\t0", false},
		{"set", "7 9", "7\t9", false},
		{"the host's", "", "1\t0", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			thread.Run(func() {
				err := unix.Unshare(unix.CLONE_NEWNET)
				if err == nil && c.before != "" {
					err = setSysctl(spec.Sysctl{File: pingGroups, Value: c.before})
				}
				var hosts []string
				if err == nil && c.host {
					var own string
					own, err = namespaceID("/proc/thread-self/ns/net")
					hosts = append(hosts, own)
				}
				if err == nil {
					err = allowPing(hosts)
				}
				groups, readErr := os.ReadFile("/proc/sys/" + pingGroups)
				if got := strings.TrimSpace(string(groups)); err != nil || readErr != nil || got != c.after {
					t.Errorf("%q, %v, %v; want %q", got, err, readErr, c.after)
				}
			})
		})
	}
}
