package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/client"
)

// defaultSpec is a configuration such as an engine writes.
func defaultSpec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args,
			Cwd:  "/",
			Env:  []string{"PATH=/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: caps, Effective: caps, Permitted: caps,
			},
		},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "box",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/does-not-exist", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		},
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// result is what a process left.
type result struct {
	exit           client.Exit
	stdout, stderr string
	created        client.Created
}

// pump feeds and drains the streams of a process.
type pump struct {
	wg    sync.WaitGroup
	out   [2]bytes.Buffer
	stdio *client.Stdio
}

func (h *harness) open(stdin io.Reader) *pump {
	h.t.Helper()
	s, err := client.NewStdio(client.StdioOptions{Stdin: stdin != nil, Stdout: true, Stderr: true})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.client.OpenStdio(h.ctx, s); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { s.Close() })
	p := &pump{stdio: s}
	p.wg.Go(func() { io.Copy(&p.out[0], s.Stdout) })
	p.wg.Go(func() { io.Copy(&p.out[1], s.Stderr) })
	if stdin != nil {
		go func() {
			io.Copy(s.Stdin, stdin)
			client.CloseWrite(s.Stdin)
		}()
	}
	return p
}

// run creates, starts and awaits a container.
func (h *harness) run(spec *specs.Spec, stdin io.Reader) (result, error) {
	h.t.Helper()
	p := h.open(stdin)
	created, err := h.client.Create(h.ctx, client.CreateOptions{
		ID: "c1", Spec: marshal(h.t, spec), RootfsTag: h.rootfs, Stdio: p.stdio,
	})
	if err != nil {
		return result{}, err
	}
	defer func() {
		if err := h.client.Delete(h.ctx, "c1"); err != nil {
			h.t.Error("delete:", err)
		}
	}()
	if err := h.client.Start(h.ctx, "c1", nil); err != nil {
		return result{}, err
	}
	exit, err := h.client.Wait(h.ctx, "c1", "")
	if err != nil {
		return result{}, err
	}
	p.wg.Wait()
	return result{exit: exit, stdout: p.out[0].String(), stderr: p.out[1].String(), created: created}, nil
}

func (h *harness) mustRun(spec *specs.Spec) result {
	h.t.Helper()
	r, err := h.run(spec, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// sh runs a script and wants it to succeed; it returns its lines.
func (h *harness) sh(spec *specs.Spec, script string) []string {
	h.t.Helper()
	spec.Process.Args = []string{"sh", "-c", script}
	r := h.mustRun(spec)
	if r.exit.Status() != 0 {
		h.t.Fatalf("%s: exit status %d, stdout %q, stderr %q", script, r.exit.Status(), r.stdout, r.stderr)
	}
	return strings.Split(strings.TrimRight(r.stdout, "\n"), "\n")
}

func TestRun(t *testing.T) {
	h := newHarness(t)
	tests := []struct {
		name           string
		script         string
		code           int
		signal         int
		stdout, stderr string
	}{
		{name: "output", script: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{name: "exit code", script: "exit 42", code: 42},
		{name: "exit code 255", script: "exit 255", code: 255},
		{name: "own pid", script: "echo $$", stdout: "1\n"},
		{name: "hostname", script: "hostname", stdout: "box\n"},
		{name: "home", script: "echo $HOME", stdout: "/root\n"},
		{name: "environment", script: "echo $TERM", stdout: "xterm\n"},
		{name: "no other descriptor", script: "ls /proc/self/fd | wc -l", stdout: "4\n"},
		{name: "reopen stdout", script: "echo x > /dev/stdout", stdout: "x\n"},
		{name: "no old root", script: "ls / | tr '\\n' ' '", stdout: "bin data dev etc proc root sys tmp "},
		{name: "orphans die", script: "sleep 1000 & exit 3", code: 3},
		{name: "null stdin", script: "cat; echo $?", stdout: "0\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			r := h.mustRun(defaultSpec("sh", "-c", tt.script))
			if r.exit.Code != tt.code || int(r.exit.Signal) != tt.signal {
				t.Errorf("exit %d, signal %d; want %d, %d", r.exit.Code, r.exit.Signal, tt.code, tt.signal)
			}
			if r.stdout != tt.stdout || r.stderr != tt.stderr {
				t.Errorf("stdout %q, stderr %q; want %q, %q", r.stdout, r.stderr, tt.stdout, tt.stderr)
			}
			if r.exit.StdoutBytes != uint64(len(tt.stdout)) || r.exit.StderrBytes != uint64(len(tt.stderr)) {
				t.Errorf("%d and %d bytes reported", r.exit.StdoutBytes, r.exit.StderrBytes)
			}
		})
	}
}

func TestExecutableErrors(t *testing.T) {
	h := newHarness(t)
	write(t, h.rootfs+"/data/plain", "x", 0o644)
	write(t, h.rootfs+"/data/noformat", "\x00\x01garbage", 0o755)
	write(t, h.rootfs+"/data/nointerpreter", "#!/no/such/thing\n", 0o755)
	tests := []struct {
		name, arg, text string
		status          int
	}{
		{"not in path", "nonsense", `exec: "nonsense": executable file not found in $PATH`, 127},
		{"absolute", "/no/such", "no such file or directory", 127},
		{"below a file", "/etc/passwd/x", "no such file or directory", 127},
		{"no permission", "/data/plain", "permission denied", 126},
		{"directory", "/etc", "permission denied", 126},
		{"not a program", "/data/noformat", "exec format error", 126},
		{"no interpreter", "/data/nointerpreter", "no such file or directory", 127},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			_, err := h.run(defaultSpec(tt.arg), nil)
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error %v; want %q", err, tt.text)
			}
			if status, ok := client.ExitStatus(err); !ok || status != tt.status {
				t.Errorf("exit status %d, %t; want %d", status, ok, tt.status)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	h := newHarness(t)
	spec := defaultSpec("true")
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{}
	if _, err := h.run(spec, nil); !errors.Is(err, client.ErrUnsupported) {
		t.Errorf("intelRdt: %v", err)
	}
	spec = defaultSpec("true")
	spec.Process.Cwd = "relative"
	if _, err := h.run(spec, nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("relative cwd: %v", err)
	}
	// The refusals left nothing behind.
	if got := h.sh(defaultSpec(), "echo fine"); !slices.Equal(got, []string{"fine"}) {
		t.Errorf("afterwards: %q", got)
	}
}
