package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/agent/guest/initproc"
	"runv.dev/runv/agent/protocol"
)

// The tests run the real agent as process 1 of new namespaces on the machine
// they run on, with Unix sockets in place of vsock and directories in place of
// shares. The test binary is the agent, as TestMain sees by its arguments.
const agentArg = "agent-under-test"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case initproc.InitArg, initproc.ExecArg:
			initproc.Main(os.Args[1])
		case agentArg:
			if err := runAgent(os.Args[2], os.Args[3]); err != nil {
				fmt.Fprintln(os.Stderr, "agent under test:", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make containers: run them as root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runAgent(dir, cgroup string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	keepSignals()
	control, err := net.FileListener(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	stream, err := net.FileListener(os.NewFile(4, "stream"))
	if err != nil {
		return err
	}
	agent, err := New(Options{
		Control:    control,
		Stream:     stream,
		CgroupRoot: cgroup,
		Rootfs: func(tag string) initproc.Rootfs {
			return initproc.Rootfs{Type: "none", Source: tag, Flags: unix.MS_BIND | unix.MS_REC, Target: dir}
		},
		Reset:        func() { os.Exit(0) },
		Log:          slog.New(slog.NewTextHandler(os.Stderr, nil)),
		ClaimTimeout: time.Second,
	})
	if err != nil {
		return err
	}
	return agent.Run(context.Background())
}

// cgroupMount is where the machine has cgroup version 2.
func cgroupMount() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 3 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted")
}

// harness is a running agent and a client of it.
type harness struct {
	t      *testing.T
	ctx    context.Context
	client *client.Client
	dial   client.Dialer
	cmd    *exec.Cmd
	rootfs string // a directory with busybox
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	dir := t.TempDir()
	root, err := cgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	cgroup, err := os.MkdirTemp(root, "runv-agent-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c := &cgroup2{dir: cgroup}
		if err := c.removeAll(); err != nil {
			t.Error("remove cgroup:", err)
		}
	})
	var files []*os.File
	addresses := make(map[uint32]string)
	for _, port := range []uint32{protocol.ControlPort, protocol.StreamPort} {
		name := filepath.Join(dir, fmt.Sprint(port))
		addresses[port] = name
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		files = append(files, f)
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, rootfs: makeRootfs(t)}
	h.cmd = exec.Command("/proc/self/exe", agentArg, target, cgroup)
	h.cmd.Stdout, h.cmd.Stderr = os.Stderr, os.Stderr
	h.cmd.ExtraFiles = files
	h.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		h.cmd.Wait()
	})
	h.dial = func(ctx context.Context, port uint32) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", addresses[port])
	}
	var cancel context.CancelFunc
	h.ctx, cancel = context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	h.client, err = client.New(h.ctx, h.dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.client.Close() })
	return h
}

type cgroup2 = cgroup

// removeAll kills what is left and removes a cgroup.
func (c *cgroup) removeAll() error {
	if err := c.kill(); err != nil {
		return err
	}
	for range 200 {
		pids, err := c.pids()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return c.remove()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("processes are left")
}

func makeRootfs(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox-static is needed: ", err)
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root", "data"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "bin/busybox"), string(content), 0o755)
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n", 0o644)
	return root
}

func write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
