//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

func TestGuest(t *testing.T) {
	noLeaks(t)
	var host unix.Utsname
	must(t, unix.Uname(&host))
	dir := bundle(t, []string{"sh", "-c", `uname -r; hostname; id -u; id -g; nproc; pwd; echo $GREETING; echo on stderr >&2; exit 42`}, func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1001}
		s.Process.Env = append(s.Process.Env, "GREETING=hello")
		s.Process.Cwd = "/etc"
		s.Hostname = "inside"
		s.Annotations[spec.AnnotationVCPUs] = "2"
		// As engines pass --memory: as much swap again, which the guest lacks.
		limit, swap := int64(100<<20), int64(200<<20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &swap}
	})
	r := runv(t, nil, "run", "-b", dir, newID())
	kernel, rest, _ := strings.Cut(r.stdout, "\n")
	if kernel == unix.ByteSliceToString(host.Release[:]) || !strings.HasPrefix(kernel, "6.12.") {
		t.Errorf("the container's kernel is %q", kernel)
	}
	if want := "inside\n1000\n1001\n2\n/etc\nhello\n"; rest != want {
		t.Errorf("the container wrote %q; want %q", rest, want)
	}
	r.expect(t, "*", "on stderr\n", 42)
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"false"}, 1, ""},
		{[]string{"sh", "-c", "exit 255"}, 255, ""},
		{[]string{"sh", "-c", "kill -KILL $$; sleep 100"}, 128 + 9, ""},
		{[]string{"nosuchprogram"}, 127, "nosuchprogram"},
		{[]string{"/bin/nosuchprogram"}, 127, "/bin/nosuchprogram"},
		{[]string{"/etc/motd"}, 126, "/etc/motd"},
		{[]string{"/etc"}, 126, "/etc"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			noLeaks(t)
			// As PID 1 a process is not killed by its own signals.
			r := runv(t, nil, "run", "-b", bundle(t, c.args, withoutPIDNamespace), newID())
			r.expect(t, "", "*", c.status)
			if (r.stderr == "") != (c.stderr == "") || !strings.Contains(r.stderr, c.stderr) || strings.Count(r.stderr, "\n") > 1 {
				t.Errorf("stderr %q; want one line with %q", r.stderr, c.stderr)
			}
		})
	}
}

func withoutPIDNamespace(s *specs.Spec) {
	var rest []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != specs.PIDNamespace {
			rest = append(rest, ns)
		}
	}
	s.Linux.Namespaces = rest
}

func TestStdio(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"sh", "-c", "cat; echo end >&2"})
	data := make([]byte, 64<<20)
	rand.Read(data)
	r := runv(t, bytes.NewReader(data), "run", "-b", dir, newID())
	if len(r.stdout) != len(data) || sha256.Sum256([]byte(r.stdout)) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back of %d, or others", len(r.stdout), len(data))
	}
	r.expect(t, "*", "end\n", 0)

	// No stdin at all, and one that is at its end.
	runv(t, nil, "run", "-b", dir, newID()).expect(t, "", "end\n", 0)
	runv(t, strings.NewReader(""), "run", "-b", dir, newID()).expect(t, "", "end\n", 0)
	runv(t, strings.NewReader("no newline"), "run", "-b", dir, newID()).expect(t, "no newline", "end\n", 0)
}

// TestFiles has stdio that is not a pipe.
func TestFiles(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"sh", "-c", "cat; echo end >&2"})
	in, err := os.Open("/proc/version")
	must(t, err)
	defer in.Close()
	want, err := os.ReadFile("/proc/version")
	must(t, err)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer out.Close()
	cmd := command(t.Context(), "run", "-b", dir, newID())
	cmd.Stdin, cmd.Stdout = in, out
	must(t, cmd.Run())
	got, err := os.ReadFile(out.Name())
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestClosedStdout(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"sh", "-c", "yes; echo $? >&2"}, withoutPIDNamespace)
	b := inBackground(t, "run", "-b", dir, newID())
	b.out.wait(t, "y")
	must(t, b.outEnd.Close()) // the reader goes away
	if status := b.end(t); status != 0 || strings.TrimSpace(b.stderr.String()) != "141" {
		t.Errorf("status %d, stderr %q; want 0 and 141, the status of a program that SIGPIPE killed", status, b.stderr.String())
	}
}

func TestTenAtOnce(t *testing.T) {
	noLeaks(t)
	const n = 10
	var wg sync.WaitGroup
	for i := range n {
		dir := bundle(t, []string{"sh", "-c", fmt.Sprintf("cat; exit %d", i)}, func(s *specs.Spec) {
			s.Annotations[spec.AnnotationMemory] = "128MiB"
		})
		wg.Go(func() {
			text := fmt.Sprintf("container %d", i)
			runv(t, strings.NewReader(text), "run", "-b", dir, newID()).expect(t, text, "", i)
		})
	}
	wg.Wait()
}

func TestOneAfterAnother(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"echo", "again"})
	id := newID()
	for range 5 {
		runv(t, nil, "run", "-b", dir, id).expect(t, "again\n", "", 0)
	}
}

// TestDevicesInRoot: without a file system of its own, /dev is the root's, which
// keeps what the first container needed there.
func TestDevicesInRoot(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"/bin/busybox", "stat", "-c", "%n %F %t:%T", "/dev/null", "/dev/zero"}, func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		s.Process.Capabilities = nil
	})
	for range 2 {
		runv(t, nil, "run", "-b", dir, newID()).expect(t, "/dev/null character special file 1:3\n/dev/zero character special file 1:5\n", "", 0)
	}
}

// TestFileKinds makes what is no regular file, changes modes, and syncs data only.
func TestFileKinds(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"sh", "-c", `cd /tmp && exec 2>&1
		busybox mkfifo -m 600 fifo; busybox mknod whiteout c 0 0
		echo data >file; busybox chmod 4750 file; busybox sync -d file
		busybox stat -c '%n %F %a %t:%T' fifo whiteout file; busybox cat file`})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, "fifo fifo 600 0:0\nwhiteout character special file 644 0:0\nfile regular file 4750 0:0\ndata\n", "", 0)
}

func TestMounts(t *testing.T) {
	noLeaks(t)
	data := t.TempDir()
	must(t, os.WriteFile(filepath.Join(data, "file"), []byte("bound\n"), 0o644))
	dir := bundle(t, []string{"sh", "-c", `
		cat /etc/motd /data/file /link/file /dev/shm/file
		echo written >/data/new && cat /data/new
		echo x >/ro/new; echo x >/etc/motd; echo x >/scratch/x && cat /scratch/x
		ls /outside`},
		func(s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind"}},
				specs.Mount{Destination: "/ro", Type: "bind", Source: data, Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/link", Type: "bind", Source: data, Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/etc/motd", Type: "bind", Source: filepath.Join(data, "file"), Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/dev/shm", Type: "bind", Source: data, Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/scratch", Type: "tmpfs", Options: []string{"size=1m"}},
			)
		})
	must(t, os.Symlink("/tmp", filepath.Join(dir, "rootfs/link")))
	must(t, os.Symlink("/", filepath.Join(dir, "rootfs/outside")))
	r := runv(t, nil, "run", "-b", dir, newID())
	if !strings.HasPrefix(r.stdout, "bound\nbound\nbound\nbound\nwritten\nx\n") {
		t.Errorf("stdout %q", r.stdout)
	}
	if strings.Count(r.stderr, "Read-only file system") != 2 {
		t.Errorf("stderr %q; want two read-only file systems", r.stderr)
	}
	if strings.Contains(r.stdout, "outside\n") == false {
		t.Errorf("a symbolic link to / led elsewhere than to the container's root: %q", r.stdout)
	}
	if got, err := os.ReadFile(filepath.Join(data, "new")); string(got) != "written\n" {
		t.Errorf("the host sees %q, %v", got, err)
	}
	for _, name := range []string{"rootfs/etc/motd"} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != "of the image\n" {
			t.Errorf("%s is %q: the file under a bind mount was written", name, got)
		}
	}
}

func TestReadonlyRoot(t *testing.T) {
	noLeaks(t)
	dir := bundle(t, []string{"sh", "-c", "touch /x; touch /dev/shm/y && echo writable"}, func(s *specs.Spec) { s.Root.Readonly = true })
	r := runv(t, nil, "run", "-b", dir, newID())
	r.expect(t, "writable\n", "*", 0)
	if !strings.Contains(r.stderr, "Read-only file system") {
		t.Errorf("stderr %q", r.stderr)
	}
}

func TestGuestDies(t *testing.T) {
	noLeaks(t)
	boot := func(s *specs.Spec) {
		withoutPIDNamespace(s)
		caps := []string{"CAP_SYS_BOOT"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	}
	r := runv(t, nil, "run", "-b", bundle(t, []string{"reboot", "-f"}, boot), newID())
	r.expect(t, "", "*", 255)
	if !strings.Contains(r.stderr, "the guest died") {
		t.Errorf("stderr %q", r.stderr)
	}

	// A kernel panic leaves its last words.
	eat := []string{"sh", "-c", "echo 1 >/proc/sys/vm/overcommit_memory; echo 2 >/proc/sys/vm/panic_on_oom; tail -c 1000000000 /dev/zero"}
	r = runv(t, nil, "run", "-b", bundle(t, eat, func(s *specs.Spec) {
		s.Annotations[spec.AnnotationMemory] = "128MiB"
		s.Linux.ReadonlyPaths = nil
	}), newID())
	r.expect(t, "", "*", 255)
	if !strings.Contains(r.stderr, "the guest died") || !strings.Contains(r.stderr, "Kernel panic") {
		t.Errorf("stderr %q", r.stderr)
	}
}

func TestBadInput(t *testing.T) {
	noLeaks(t)
	good := bundle(t, []string{"true"})
	empty := t.TempDir()
	invalid := t.TempDir()
	must(t, os.WriteFile(filepath.Join(invalid, "config.json"), []byte("{\n  \"ociVersion\": oops\n}\n"), 0o644))
	with := func(edit func(*specs.Spec)) string { return bundle(t, []string{"true"}, edit) }
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no config.json", []string{"run", "-b", empty, "x"}, "config.json: no such file"},
		{"no bundle", []string{"run", "-b", "/nonexistent", "x"}, "config.json: no such file"},
		{"invalid JSON", []string{"run", "-b", invalid, "x"}, "line 2, column"},
		{"missing rootfs", []string{"run", "-b", with(func(s *specs.Spec) { s.Root.Path = "nowhere" }), "x"}, "nowhere: no such directory"},
		{"rootfs is a file", []string{"run", "-b", with(func(s *specs.Spec) { s.Root.Path = "config.json" }), "x"}, "config.json: not a directory"},
		{"annotation that opens the network", []string{"run", "-b", with(func(s *specs.Spec) { s.Annotations["run.oci.runv.network.link-local"] = "allow" }), "x"}, "--open-network"},
		{"unknown annotation", []string{"run", "-b", with(func(s *specs.Spec) { s.Annotations["run.oci.runv.debug"] = "1" }), "x"}, "unknown annotation"},
		{"bind without source", []string{"run", "-b", with(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/nonexistent"})
		}), "x"}, "/nonexistent"},
		{"bad id", []string{"run", "-b", good, "a/b"}, "container id"},
		{"no id", []string{"run", "-b", good}, "id is missing"},
		{"two ids", []string{"run", "-b", good, "x", "y"}, "too many arguments"},
		{"unknown option", []string{"run", "--frobnicate", "x"}, "frobnicate"},
		{"unknown verb", []string{"frobnicate"}, "no such command"},
		{"terminal without one", []string{"run", "-b", with(func(s *specs.Spec) { s.Process.Terminal = true }), "x"}, "neither stdio is a terminal"},
		{"detached terminal", []string{"run", "-d", "-b", with(func(s *specs.Spec) { s.Process.Terminal = true }), "x"}, "--console-socket"},
		{"console socket without terminal", []string{"run", "--console-socket", "/x", "-b", good, "x"}, "process.terminal is false"},
		{"bad kernel", []string{"--kernel", "/etc/passwd", "run", "-b", good, "x"}, "ELF"},
		{"missing kernel", []string{"--kernel", "/nonexistent", "run", "-b", good, "x"}, "/nonexistent"},
		{"systemd", []string{"--systemd-cgroup", "run", "-b", good, "x"}, "systemd"},
		{"log format", []string{"--log-format", "xml", "list"}, "xml"},
		{"state of nothing", []string{"state", "nothing"}, "does not exist"},
		{"delete of nothing", []string{"delete", "nothing"}, "does not exist"},
		{"kill of nothing", []string{"kill", "nothing"}, "does not exist"},
		{"start of nothing", []string{"start", "nothing"}, "does not exist"},
		{"no such signal", []string{"kill", "nothing", "SIGNOTHING"}, "SIGNOTHING"},
	} {
		r := runv(t, nil, c.args...)
		if r.status == 0 || r.stdout != "" || !strings.HasPrefix(r.stderr, "runv: ") || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want a failure and one line with %q", c.name, r.status, r.stdout, r.stderr, c.want)
		}
	}
	runv(t, nil, "delete", "--force", "nothing").expect(t, "", "", 0)
}

func TestNoKVM(t *testing.T) {
	noLeaks(t)
	good := bundle(t, []string{"true"})
	for _, c := range []struct{ name, prepare, want string }{
		{"missing", "mount -t tmpfs none /dev && mknod /dev/null c 1 3", "/dev/kvm is missing"},
		{"forbidden", "mount -t tmpfs -o nodev none /mnt && mknod /mnt/kvm c 10 232 && mount --bind /mnt/kvm /dev/kvm", "/dev/kvm: permission denied"},
		{"something else", "mount --bind /dev/null /dev/kvm", "/dev/kvm is not a KVM device"},
	} {
		script := fmt.Sprintf("%s && exec %s --root %s run -b %s x", c.prepare, runvPath, stateRoot, good)
		cmd := exec.Command("unshare", "-m", "sh", "-c", script)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Run()
		if statusOf(cmd) != 1 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: status %d, stderr %q; want 1 and one line with %q", c.name, statusOf(cmd), stderr.String(), c.want)
		}
	}
}
