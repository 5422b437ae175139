package vmprocess

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

func TestInheritUTS(t *testing.T) {
	here, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	user := []specs.LinuxNamespace{{Type: specs.UserNamespace}}
	for _, c := range []struct {
		name       string
		namespaces []spec.Namespace // of the VM process
		guest      []specs.LinuxNamespace
		hostname   string
		want       string
	}{
		{"its own", []spec.Namespace{{Type: specs.UTSNamespace}}, nil, "", ""},
		{"joined", []spec.Namespace{{Type: specs.UTSNamespace, Path: "/proc/self/ns/uts"}}, nil, "", here},
		{"joined by a user namespace", []spec.Namespace{{Type: specs.UTSNamespace, Path: "/proc/self/ns/uts"}}, user, "", here},
		{"joined, and named", []spec.Namespace{{Type: specs.UTSNamespace, Path: "/proc/self/ns/uts"}}, nil, "box", "box"},
		{"the host's", []spec.Namespace{{Type: specs.IPCNamespace}}, nil, "", here},
		{"the host's in a user namespace", nil, user, "", ""},
	} {
		plan := &spec.Plan{Namespaces: c.namespaces, Spec: &specs.Spec{Hostname: c.hostname, Linux: &specs.Linux{Namespaces: c.guest}}}
		if err := inheritUTS(plan); err != nil || plan.Spec.Hostname != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, plan.Spec.Hostname, err, c.want)
		}
	}
}
