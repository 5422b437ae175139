package guest

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestDeviceRules(t *testing.T) {
	one, eleven := int64(1), int64(11)
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	for _, tt := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{"none", nil, "null\nnode\n"},
		{"deny all", []specs.LinuxDeviceCgroup{denyAll}, "null\nnode\n"},
		{"one", []specs.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "c", Major: &one, Minor: &eleven, Access: "w"}}, "null\nkmsg\nnode\n"},
		{"all", []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, "null\nkmsg\nnode\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			spec := defaultSpec("sleep", "1000")
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
			spec.Linux.Resources = &specs.LinuxResources{Devices: tt.rules}
			h.start(spec)
			process := defaultSpec("sh", "-c", "(: >/dev/null) && echo null; (: >>/dev/kmsg) 2>/dev/null && echo kmsg; mknod /dev/x b 7 0 && echo node").Process
			process.Capabilities = &specs.LinuxCapabilities{
				Bounding: []string{"CAP_MKNOD", "CAP_SYSLOG"}, Permitted: []string{"CAP_MKNOD", "CAP_SYSLOG"}, Effective: []string{"CAP_MKNOD", "CAP_SYSLOG"},
			}
			r, err := h.exec("e", process)
			if err != nil {
				t.Fatal(err)
			}
			if r.stdout != tt.want {
				t.Errorf("stdout %q, stderr %q; want %q", r.stdout, r.stderr, tt.want)
			}
		})
	}
}
