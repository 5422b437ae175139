//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestHooks runs a container with all six kinds of hooks, each of which writes
// down its kind, the state it got, and the network namespace it is in.
func TestHooks(t *testing.T) {
	noLeaks(t)
	record := filepath.Join(t.TempDir(), "record")
	hook := func(kind string) []specs.Hook {
		script := fmt.Sprintf(`{ echo %s; cat; echo; readlink /proc/self/ns/net; pwd -P; } >>%s`, kind, record)
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
	}
	id := newID()
	dir := bundle(t, []string{"sh", "-c", "cat /hook; exit 5"}, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 deprecated, still part of the specification
			Prestart:        hook("prestart"),
			CreateRuntime:   hook("createRuntime"),
			CreateContainer: hook("createContainer"),
			StartContainer:  []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/hook; uname -r >>/hook"}, Env: []string{"PATH=/bin"}}},
			Poststart:       hook("poststart"),
			Poststop:        hook("poststop"),
		}
		s.Annotations["org.example"] = "kept"
	})
	r := runv(t, nil, "run", "-b", dir, id)
	r.expect(t, "*", "", 5)
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(t, err)
	state, kernel, _ := strings.Cut(r.stdout, "}}")
	if !strings.Contains(state, `"status":"created"`) || kernel == "" || kernel == string(host) {
		t.Errorf("the startContainer hook wrote %q", r.stdout)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	want := []struct {
		kind   string
		status specs.ContainerState
		pid    bool
		ours   bool // in the runtime's namespace
		dir    string
	}{
		{"prestart", specs.StateCreating, true, true, dir},
		{"createRuntime", specs.StateCreating, true, true, dir},
		{"createContainer", specs.StateCreating, true, false, filepath.Join(dir, "rootfs")},
		{"poststart", specs.StateRunning, true, true, dir},
		{"poststop", specs.StateStopped, false, true, dir},
	}
	data, err := os.ReadFile(record)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) != 4*len(want) {
		t.Fatalf("the hooks wrote %q", data)
	}
	for i, w := range want {
		var s specs.State
		if err := json.Unmarshal([]byte(lines[4*i+1]), &s); err != nil {
			t.Errorf("%s: %v: %q", w.kind, err, lines[4*i+1])
		}
		netns := lines[4*i+2]
		if lines[4*i] != w.kind || s.Status != w.status || s.ID != id || s.Bundle != dir || s.Pid > 0 != w.pid || s.Annotations["org.example"] != "kept" || netns == ours != w.ours || lines[4*i+3] != w.dir {
			t.Errorf("hook %d is %s in %s with %+v; want %+v", i, lines[4*i], netns, s, w)
		}
	}
}

// TestFailingHooks: the first four kinds stop the container, and poststop hooks
// run all the same; the last two are warnings.
func TestFailingHooks(t *testing.T) {
	noLeaks(t)
	bad := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo the reason >&2; exit 3"}, Env: []string{"PATH=/bin"}}}
	one := 1
	slow := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one}}
	mkdir := []specs.Hook{{Path: "/bin/mkdir", Args: []string{"mkdir", "/dev/shm/made"}}}
	for _, tt := range []struct {
		name   string
		hooks  specs.Hooks
		stdout string
		stderr string
		fails  bool
	}{
		//lint:ignore SA1019 deprecated, still part of the specification
		{"prestart", specs.Hooks{Prestart: bad}, "", "error running prestart hook #0", true},
		{"createRuntime", specs.Hooks{CreateRuntime: slow}, "", "error running createRuntime hook #0: /bin/sleep: not done after 1s", true},
		{"createContainer", specs.Hooks{CreateContainer: bad}, "", "the reason", true},
		{"startContainer", specs.Hooks{StartContainer: bad}, "", "the reason", true},
		{"startContainer and seccomp", specs.Hooks{StartContainer: mkdir}, "", "bad system call", true},
		{"poststart and poststop", specs.Hooks{Poststart: bad, Poststop: bad}, "ran\n", "error running poststop hook #0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stopped := filepath.Join(t.TempDir(), "stopped")
			tt.hooks.Poststop = append(tt.hooks.Poststop, specs.Hook{Path: "/bin/touch", Args: []string{"touch", stopped}})
			dir := bundle(t, []string{"echo", "ran"}, func(s *specs.Spec) {
				s.Hooks = &tt.hooks
				s.Process.NoNewPrivileges = true
				s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActKillProcess}}}
			})
			r := runv(t, nil, "run", "-b", dir, newID())
			if r.stdout != tt.stdout || r.status != 0 != tt.fails || !strings.Contains(r.stderr, tt.stderr) {
				t.Errorf("%+v; want stdout %q, stderr with %q, failed: %v", r, tt.stdout, tt.stderr, tt.fails)
			}
			if _, err := os.Stat(stopped); err != nil {
				t.Errorf("the poststop hook did not run: %v", err)
			}
		})
	}
}
