package hooks

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func sh(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"hook", "-c", script}}
}

func withTimeout(h specs.Hook, seconds int) specs.Hook {
	h.Timeout = &seconds
	return h
}

func TestRun(t *testing.T) {
	const state = `{"ociVersion":"1.2.0","id":"c1","status":"creating","pid":42,"bundle":"BUNDLE"}`
	tests := []struct {
		name  string
		hooks []specs.Hook
		out   string // content of the file out in the bundle
		err   []string
	}{
		{name: "none"},
		{name: "state, directory and name", hooks: []specs.Hook{sh("cat >out; echo >>out; pwd >>out; echo $0 >>out")}, out: state + "\nBUNDLE\nhook\n"},
		{name: "arguments", hooks: []specs.Hook{{Path: "/bin/sh", Args: []string{"hook", "-c", "echo $0 $1 >out", "a", "b"}}}, out: "a b\n"},
		{name: "order", hooks: []specs.Hook{sh("echo 1 >>out"), sh("echo 2 >>out")}, out: "1\n2\n"},
		{name: "own environment", hooks: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `echo "$A $RUNV_HOOK_TEST" >out`}, Env: []string{"A=b"}}}, out: "b \n"},
		{name: "inherited environment", hooks: []specs.Hook{sh("echo $RUNV_HOOK_TEST >out")}, out: "inherited\n"},
		{name: "failure stops", hooks: []specs.Hook{sh("echo why >&2; exit 3"), sh("echo 2 >out")}, err: []string{"error running x hook #0: /bin/sh: exit status 3", `"why"`}},
		{name: "missing", hooks: []specs.Hook{{Path: "/no/such/hook"}}, err: []string{"error running x hook #0: /no/such/hook", "no such file"}},
		{name: "timeout", hooks: []specs.Hook{withTimeout(sh("sleep 100 & sleep 100; echo >out"), 1)}, err: []string{"not done after 1s"}},
		{name: "in time", hooks: []specs.Hook{withTimeout(sh("echo ok >out"), 100)}, out: "ok\n"},
		{name: "background", hooks: []specs.Hook{sh("sleep 5 & echo ok >out")}, out: "ok\n"},
		{name: "much output", hooks: []specs.Hook{sh("yes | head -c 300000; exit 1")}, err: []string{"exit status 1"}},
	}
	t.Setenv("RUNV_HOOK_TEST", "inherited")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bundle := t.TempDir()
			err := Run(context.Background(), "x", tt.hooks, &specs.State{Version: "1.2.0", ID: "c1", Status: specs.StateCreating, Pid: 42, Bundle: bundle}, bundle)
			if (err == nil) != (tt.err == nil) {
				t.Errorf("error %v; want %q", err, tt.err)
			}
			for _, want := range tt.err {
				if err != nil && (!strings.Contains(err.Error(), want) || len(err.Error()) > 3*maxOutput) {
					t.Errorf("error %q lacks %q, or is too long", err, want)
				}
			}
			out, _ := os.ReadFile(filepath.Join(bundle, "out"))
			if got := strings.ReplaceAll(string(out), bundle, "BUNDLE"); got != tt.out {
				t.Errorf("got %q; want %q", got, tt.out)
			}
		})
	}
}

// A large state that the hook does not read is no failure.
func TestRunUnreadState(t *testing.T) {
	state := &specs.State{Annotations: map[string]string{"a": strings.Repeat("x", 1<<20)}}
	if err := Run(context.Background(), "x", []specs.Hook{{Path: "/bin/true"}}, state, ""); err != nil {
		t.Error(err)
	}
}

func TestRunCanceled(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	pid := filepath.Join(t.TempDir(), "pid")
	err := Run(ctx, "x", []specs.Hook{sh("sleep 1000 & echo $! >" + pid + "; wait")}, &specs.State{}, "")
	if err == nil {
		t.Fatal("a canceled hook succeeded")
	}
	if data, err := os.ReadFile(pid); err == nil {
		if path := "/proc/" + strings.TrimSpace(string(data)); alive(path) {
			t.Errorf("the hook's child %s is still there", path)
		}
	}
}

func alive(proc string) bool {
	for range 100 {
		stat, err := os.ReadFile(proc + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func TestRunAll(t *testing.T) {
	dir := t.TempDir()
	var warnings []error
	RunAll(context.Background(), "poststop", []specs.Hook{{Path: "/no/such"}, sh("echo ok >out")}, &specs.State{Bundle: dir},
		func(err error) { warnings = append(warnings, err) })
	if out, _ := os.ReadFile(filepath.Join(dir, "out")); string(out) != "ok\n" || len(warnings) != 1 {
		t.Errorf("the second hook wrote %q; warnings %v", out, warnings)
	}
}
