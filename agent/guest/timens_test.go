package guest

import (
	"errors"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/client"
)

func TestTimeNamespace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		harness func(*testing.T) *harness
		change  func(*specs.Spec)
	}{
		{"alone", newHarness, func(*specs.Spec) {}},
		{"in a user namespace", newUserHarness, withUserNamespace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.harness(t)
			first := defaultSpec("sh", "-c", "awk '{ print int($1 / 1000000) }' /proc/uptime >/data/uptime; tr -s ' ' </proc/self/timens_offsets >/data/offsets; exec sleep 1000")
			tt.change(first)
			first.Linux.Namespaces = append(first.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			first.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 777000000}, "monotonic": {Secs: 5, Nanosecs: 6}}
			h.start(first)
			process := defaultSpec("sh", "-c", `until test -s /data/offsets; do sleep 0.1; done; cat /data/uptime /data/offsets
				awk '{ print int($1 / 1000000) }' /proc/uptime
				test $(readlink /proc/self/ns/time) = $(readlink /proc/1/ns/time) && echo same`).Process
			r, err := h.exec("e", process)
			if err != nil {
				t.Fatal(err)
			}
			if want := "777\nmonotonic 5 6\nboottime 777000000 0\n777\nsame\n"; r.stdout != want {
				t.Errorf("stdout %q, stderr %q; want %q", r.stdout, r.stderr, want)
			}
		})
	}
}

func TestTimeOffsets(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct {
		name    string
		offsets map[string]specs.LinuxTimeOffset
		text    string
	}{
		{"realtime", map[string]specs.LinuxTimeOffset{"realtime": {}}, "monotonic and boottime only"},
		{"nanoseconds", map[string]specs.LinuxTimeOffset{"boottime": {Nanosecs: 1e9}}, "a second or more"},
		{"before the beginning", map[string]specs.LinuxTimeOffset{"boottime": {Secs: -1 << 40}}, "linux.timeOffsets"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			spec := defaultSpec("true")
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			spec.Linux.TimeOffsets = tt.offsets
			if _, err := h.run(spec, nil); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v; want %q", err, tt.text)
			}
		})
	}
	h.t = t
	spec := defaultSpec("true")
	spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}}
	if _, err := h.run(spec, nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("without a namespace: %v", err)
	}
}
