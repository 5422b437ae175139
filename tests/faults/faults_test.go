//go:build integration

package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/tests/bundle"
)

// TestKVM has a host whose /dev/kvm is not there, not allowed, or not KVM.
func TestKVM(t *testing.T) {
	for name, script := range map[string]string{
		"absent":    `mount -t tmpfs none /dev && mknod /dev/null c 1 3`,
		"forbidden": `mount --bind /dev/kvm /dev/kvm && mount -o remount,bind,nodev /dev/kvm`,
		"unable":    `mount --bind /dev/null /dev/kvm`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newBundle(t, "exit 0")
			r := s.Run(t, nil, "unshare", "-m", "sh", "-c", script+` && exec "$@"`, "sh")
			if status := r.End(t); status == 0 {
				t.Error("status 0")
			}
			oneLine(t, r, "/dev/kvm")
		})
	}
}

// TestNoSpace: the guest sees ENOSPC of a full share, and an operation that
// finds its state directory full is none.
func TestNoSpace(t *testing.T) {
	t.Run("share", func(t *testing.T) {
		s := newBundle(t, `cd /tmp
			busybox dd if=/dev/zero of=big bs=64k 2>&1 | busybox grep -o 'No space left on device'
			busybox mkdir d && echo made
			busybox rm big && echo x >small && busybox cat small`)
		dir := tmpfs(t, "size=6m")
		bundle.MakeRoot(t, dir)
		addBusybox(t, dir)
		s.Spec.Root.Path = dir
		r := s.Run(t, nil)
		status := r.End(t)
		if got, want := r.Stdout.String(), "No space left on device\nmade\nx\n"; status != 0 || got != want {
			t.Errorf("status %d, stdout %q, stderr %q; want %q", status, got, r.Stderr.String(), want)
		}
	})
	for _, size := range []string{"size=4k", "nr_inodes=3"} {
		t.Run("state "+size, func(t *testing.T) {
			s := newBundle(t, "exit 0")
			dir := tmpfs(t, size)
			s.Root = filepath.Join(dir, "state")
			if size == "size=4k" {
				_ = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4096), 0o600)
			}
			r := s.Run(t, nil)
			if status := r.End(t); status == 0 {
				t.Error("status 0")
			}
			oneLine(t, r, "no space left on device")
		})
	}
}

// TestDescriptors: with few descriptors a container runs, or one line says why
// not.
func TestDescriptors(t *testing.T) {
	ran := false
	for _, n := range []int{12, 40, 120} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newBundle(t, "echo it runs")
			r := s.Run(t, nil, "sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, n), "sh")
			status := r.End(t)
			t.Logf("status %d: %s%.300s", status, r.Stdout.String(), r.Stderr.String())
			if status == 0 {
				ran = true
				if r.Stdout.String() != "it runs\n" {
					t.Errorf("stdout %q", r.Stdout.String())
				}
				return
			}
			oneLine(t, r, "")
		})
	}
	if !ran {
		t.Error("it never ran")
	}
}

// TestOutput has a standard output that is closed, full or not read.
func TestOutput(t *testing.T) {
	const writer = `i=0; while [ $i -lt 3000 ]; do echo "line $i of a text that is long enough to fill a pipe before it ends" || exit 9; i=$((i+1)); done; exit 3`
	t.Run("full", func(t *testing.T) {
		s := newBundle(t, writer)
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		must(t, err)
		defer full.Close()
		r := s.Run(t, full)
		if status := r.End(t); status == 0 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("closed", func(t *testing.T) {
		s := newBundle(t, writer)
		r := s.Run(t, nil, "sh", "-c", `exec "$@" >&-`, "sh")
		if status := r.End(t); status != 3 && status != 9 && status != 141 {
			t.Errorf("status %d, stderr %q", status, r.Stderr.String())
		}
	})
	t.Run("reader gone", func(t *testing.T) {
		s := newBundle(t, writer)
		in, out, err := os.Pipe()
		must(t, err)
		r := s.Run(t, out)
		out.Close()
		_, err = io.ReadFull(in, make([]byte, 100))
		must(t, err)
		in.Close()
		if status := r.End(t); status != 9 && status != 141 {
			t.Errorf("status %d, stderr %q", status, r.Stderr.String())
		}
	})
	t.Run("not read for a while", func(t *testing.T) {
		s := newBundle(t, writer)
		in, out, err := os.Pipe()
		must(t, err)
		defer in.Close()
		r := s.Run(t, out)
		out.Close()
		br := bufio.NewReaderSize(in, 16)
		_, err = br.ReadString('\n')
		must(t, err)
		time.Sleep(3 * time.Second)
		select {
		case <-r.Done:
			t.Error("it ended although nobody had read its output")
		default:
		}
		text, err := io.ReadAll(br)
		must(t, err)
		if n := strings.Count(string(text), "\n"); n != 2999 {
			t.Errorf("%d lines; want the other 2999", n)
		}
		if status := r.End(t); status != 3 {
			t.Errorf("status %d", status)
		}
	})
}

// vmPID is the pid of a container that runs.
func vmPID(t *testing.T, s *bundle.Bundle, r *bundle.Run) int {
	t.Helper()
	deadline := time.Now().Add(bundle.Limit)
	for time.Now().Before(deadline) {
		out, err := s.Command("state", s.ID).Output()
		if i := strings.Index(string(out), `"pid":`); err == nil && i >= 0 && strings.Contains(string(out), `"running"`) {
			var pid int
			if _, err := fmt.Sscanf(strings.TrimSpace(string(out)[i+len(`"pid":`):]), "%d", &pid); err == nil && pid > 0 {
				return pid
			}
		}
		select {
		case <-r.Done:
			t.Fatalf("it ended: %s", r.Stderr.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("it never ran")
	return 0
}

// lines sends the lines of a reader.
func lines(r io.Reader) <-chan string {
	c := make(chan string, 1000)
	go func() {
		defer close(c)
		for s := bufio.NewScanner(r); s.Scan(); {
			c <- s.Text()
		}
	}()
	return c
}

// next waits for a line.
func next(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case line, ok := <-c:
		if !ok {
			t.Fatal("the output ended")
		}
		return line
	case <-time.After(bundle.Limit):
		t.Fatal("no output")
	}
	return ""
}

// TestStopped: a VM process that is stopped goes on where it was, and one that
// is stopped can be killed.
func TestStopped(t *testing.T) {
	const ticker = `i=0; while :; do echo tick $i; i=$((i+1)); busybox sleep 0.2; done`
	s := newBundle(t, ticker)
	in, out, err := os.Pipe()
	must(t, err)
	defer in.Close()
	r := s.Run(t, out)
	out.Close()
	text := lines(in)
	next(t, text)
	pid := vmPID(t, s, r)
	must(t, unix.Kill(pid, unix.SIGSTOP))
	time.Sleep(time.Second)
	for len(text) > 0 {
		<-text
	}
	time.Sleep(2 * time.Second)
	if n := len(text); n > 0 {
		t.Errorf("%d lines while the process was stopped", n)
	}
	must(t, unix.Kill(pid, unix.SIGCONT))
	for range 5 {
		next(t, text)
	}
	must(t, unix.Kill(pid, unix.SIGSTOP))
	if out, err := s.Command("kill", s.ID, "KILL").CombinedOutput(); err != nil {
		t.Errorf("kill of a stopped VM process: %v: %s", err, out)
	}
	if status := r.End(t); status != 137 {
		t.Errorf("status %d", status)
	}
}

// TestClock steps the host's clock by a day and back: the guest's timers run on.
// Only a machine that ends with its tests is treated so.
func TestClock(t *testing.T) {
	s := newBundle(t, `i=0; while [ $i -lt 30 ]; do echo tick $i; i=$((i+1)); busybox sleep 0.2; done; exit 5`)
	in, out, err := os.Pipe()
	must(t, err)
	defer in.Close()
	r := s.Run(t, out)
	out.Close()
	text := lines(in)
	next(t, text)
	step := func(by time.Duration) {
		if !strings.HasPrefix(os.Getenv("RUNV_IN_TEST_HOST"), "tcg") {
			return
		}
		ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
		must(t, unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
	}
	step(24 * time.Hour)
	next(t, text)
	next(t, text)
	step(-48 * time.Hour)
	next(t, text)
	next(t, text)
	step(24 * time.Hour)
	if status := r.End(t); status != 5 {
		t.Errorf("status %d, stderr %q", status, r.Stderr.String())
	}
}

// TestFailingFiles: what the host's file system fails with is what the guest
// sees.
func TestFailingFiles(t *testing.T) {
	dir := t.TempDir()
	_, stop := failingFiles(t, dir)
	defer stop()
	s := newBundle(t, `cd /faults
		busybox cat read 2>&1 | busybox grep -o 'Input/output error'
		echo x 2>&1 >quota | busybox grep -o 'Disk quota exceeded'
		busybox dd if=/dev/zero of=write bs=4k count=1 2>&1 | busybox grep -o 'Input/output error'
		busybox dd if=/dev/zero of=sync bs=4k count=1 conv=fsync 2>&1 | busybox grep -o 'Input/output error'
		echo still here`)
	s.Spec.Mounts = append(s.Spec.Mounts, specs.Mount{Destination: "/faults", Type: "bind", Source: dir, Options: []string{"rbind", "rw"}})
	r := s.Run(t, nil)
	status := r.End(t)
	want := "Input/output error\nDisk quota exceeded\nInput/output error\nInput/output error\nstill here\n"
	if got := r.Stdout.String(); status != 0 || got != want {
		t.Errorf("status %d, stdout %q, stderr %q; want %q", status, got, r.Stderr.String(), want)
	}
}

// TestStuckFile: while the host's file system does not answer, the guest waits for
// that file only. The VM process cannot end before: kill does what it can, and
// delete waits, and says so.
func TestStuckFile(t *testing.T) {
	dir := t.TempDir()
	release, stop := failingFiles(t, dir)
	defer stop()
	s := newBundle(t, `cd /faults
		busybox cat stuck >/dev/null &
		busybox sleep 1
		busybox cat read 2>&1 | busybox grep -o 'Input/output error'
		wait`)
	s.Spec.Mounts = append(s.Spec.Mounts, specs.Mount{Destination: "/faults", Type: "bind", Source: dir, Options: []string{"rbind", "rw"}})
	out, w, err := os.Pipe()
	must(t, err)
	defer out.Close()
	r := s.Run(t, w)
	w.Close()
	if line := next(t, lines(out)); line != "Input/output error" {
		t.Errorf("the guest says %q", line)
	}
	pid := vmPID(t, s, r)
	if text, err := s.Command("kill", s.ID, "KILL").CombinedOutput(); err != nil {
		t.Errorf("kill: %v: %s", err, text)
	}
	if unix.Kill(pid, 0) != nil {
		t.Error("the VM process is gone: nothing was stuck")
	}
	del := s.Command("delete", "--force", s.ID)
	stderr, err := del.StderrPipe()
	must(t, err)
	must(t, del.Start())
	if line := next(t, lines(stderr)); !strings.Contains(line, "waiting for the killed VM process") {
		t.Errorf("delete says %q", line)
	}
	release()
	if err := del.Wait(); err != nil {
		t.Errorf("delete: %v", err)
	}
	r.End(t)
}
