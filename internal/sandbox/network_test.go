package sandbox

import (
	"fmt"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
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
