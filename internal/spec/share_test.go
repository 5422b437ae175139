package spec

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestReadOnlyShare: one mount that can be written is enough.
func TestReadOnlyShare(t *testing.T) {
	bind := func(options ...string) specs.Mount {
		return specs.Mount{Destination: "/mnt", Type: "bind", Source: "/src", Options: options}
	}
	for _, tt := range []struct {
		name  string
		root  bool
		binds []specs.Mount
		want  bool
	}{
		{"writable root", false, nil, false},
		{"read-only root", true, nil, true},
		{"writable root, read-only bind", false, []specs.Mount{bind("bind", "ro")}, false},
		{"writable bind", true, []specs.Mount{bind("bind")}, false},
		{"read-only bind", true, []specs.Mount{bind("bind", "ro")}, true},
		{"mounts below a read-only bind", true, []specs.Mount{bind("rbind", "ro")}, false},
		{"read-only with all below", true, []specs.Mount{bind("rbind", "rro")}, true},
		{"one of two", true, []specs.Mount{bind("bind", "ro"), bind("bind", "rw")}, false},
	} {
		s := minimal()
		s.Root.Readonly = tt.root
		s.Mounts = append(s.Mounts, tt.binds...)
		p, err := New(s, "/bundle", host)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := p.ReadOnlyShare(); got != tt.want {
			t.Errorf("%s: %v; want %v", tt.name, got, tt.want)
		}
	}
}

func TestRequireCage(t *testing.T) {
	for value, want := range map[string]bool{"": false, CageWarn: false, CageRequire: true} {
		s := minimal()
		if value != "" {
			s.Annotations = map[string]string{AnnotationCage: value}
		}
		p, err := New(s, "/bundle", host)
		if err != nil || p.RequireCage != want {
			t.Errorf("%q: %+v, %v; want %v", value, p, err, want)
		}
	}
}
