//go:build integration

package integration

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The rules for devices hold in the guest, also for its root.
func TestDeviceRules(t *testing.T) {
	one, eleven := int64(1), int64(11)
	script := "(: >/dev/null) && echo null; for f in r w; do case $f in r) (: </dev/kmsg);; w) (: >/dev/kmsg);; esac 2>/dev/null && echo $f; done; true"
	for _, tt := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{"all denied", []specs.LinuxDeviceCgroup{{Access: "rwm"}}, "null\n"},
		{"one allowed", []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &one, Minor: &eleven, Access: "w"}}, "null\nw\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := bundle(t, []string{"sh", "-c", script}, func(s *specs.Spec) {
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
				s.Linux.Resources = &specs.LinuxResources{Devices: tt.rules}
				s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYSLOG")
				s.Process.Capabilities.Permitted = append(s.Process.Capabilities.Permitted, "CAP_SYSLOG")
				s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_SYSLOG")
			})
			runv(t, nil, "run", "-b", dir, newID()).expect(t, tt.want, "*", 0)
		})
	}
}
