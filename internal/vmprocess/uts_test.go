package vmprocess

import (
	"fmt"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/thread"
)

func TestShareUTS(t *testing.T) {
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
		if err := shareUTS(plan); err != nil || plan.Spec.Hostname != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, plan.Spec.Hostname, err, c.want)
		}
	}
}

// TestNameUTS has a new namespace named, on a thread that dies with it.
func TestNameUTS(t *testing.T) {
	plan := &spec.Plan{
		Namespaces: []spec.Namespace{{Type: specs.UTSNamespace}},
		Spec:       &specs.Spec{Hostname: "box", Domainname: "example.org", Linux: &specs.Linux{}},
	}
	thread.Run(func() {
		err := unix.Unshare(unix.CLONE_NEWUTS)
		if err == nil {
			err = shareUTS(plan)
		}
		var names unix.Utsname
		if err == nil {
			err = unix.Uname(&names)
		}
		if host, domain := unix.ByteSliceToString(names.Nodename[:]), unix.ByteSliceToString(names.Domainname[:]); err == nil && (host != "box" || domain != "example.org") {
			err = fmt.Errorf("named %q, %q", host, domain)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if here, err := os.Hostname(); err != nil || here == "box" {
		t.Errorf("this machine is named %q, %v", here, err)
	}
}
