//go:build integration

package vmm

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/rng"
)

// These tests boot Linux: they need a KVM that can run a kernel (the test
// host), the guest kernel in RUNV_TEST_KERNEL and a static busybox in
// /bin/busybox.

func section(t testing.TB, f interface {
	io.ReaderAt
	Size() int64
}) *io.SectionReader {
	t.Helper()
	return io.NewSectionReader(f, 0, f.Size())
}

func linuxKernel(t testing.TB) *io.SectionReader {
	t.Helper()
	path := os.Getenv("RUNV_TEST_KERNEL")
	if path == "" {
		t.Fatal("RUNV_TEST_KERNEL has to name a vmlinux")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(f, 0, st.Size())
}

// initrd makes a newc archive of busybox and an init script.
func initrd(t testing.TB, script string) *io.SectionReader {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	ino := 0
	add := func(name string, mode, rmajor, rminor int, data []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, rmajor, rminor, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, dir := range []string{"bin", "proc", "sys", "dev"} {
		add(dir, 0o40755, 0, 0, nil)
	}
	add("dev/console", 0o20600, 5, 1, nil)
	add("bin/busybox", 0o100755, 0, 0, busybox)
	add("init", 0o100755, 0, 0, []byte("#!/bin/busybox sh\nB=/bin/busybox\n"+script))
	add("TRAILER!!!", 0, 0, 0, nil)
	return section(t, bytes.NewReader(b.Bytes()))
}

// transcript is a console that remembers when each line came.
type transcript struct {
	mu    sync.Mutex
	start time.Time
	buf   bytes.Buffer
	first time.Duration
	lines []string
}

func (c *transcript) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == 0 {
		c.first = time.Since(c.start)
	}
	for _, x := range p {
		c.buf.WriteByte(x)
		if x == '\n' {
			c.lines = append(c.lines, fmt.Sprintf("%8.1fms %s", float64(time.Since(c.start).Microseconds())/1000,
				strings.TrimRight(c.buf.String(), "\r\n")))
			c.buf.Reset()
		}
	}
	return len(p), nil
}

func (c *transcript) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n") + "\n" + c.buf.String()
}

type linuxRun struct {
	out    *transcript
	exit   Exit
	stages string
}

// runLinux boots the kernel with an init script and waits for its end.
func runLinux(t testing.TB, script string, change func(*Config)) linuxRun {
	t.Helper()
	return runLinuxVM(t, script, change, nil)
}

func runLinuxVM(t testing.TB, script string, change func(*Config), before func(*VM)) linuxRun {
	t.Helper()
	out := &transcript{start: time.Now()}
	var mu sync.Mutex
	var stages strings.Builder
	cfg := Config{
		KVM:         openKVM(t),
		Kernel:      linuxKernel(t),
		Initrd:      initrd(t, script),
		MemoryBytes: 512 << 20,
		VCPUs:       2,
		Devices: []virtio.Device{
			console.New(console.Port{Console: true, Out: out}),
			rng.New(rand.Reader),
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Trace: func(stage string) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(&stages, "%8.1fms %s\n", float64(time.Since(out.start).Microseconds())/1000, stage)
		},
	}
	if change != nil {
		change(&cfg)
	}
	out.start = time.Now()
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if before != nil {
		before(vm)
	}
	exit, err := vm.Run(t.Context())
	if err != nil {
		t.Fatalf("Run: %v\n%s", err, out)
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("stages:\n%s", stages.String())
	t.Logf("console:\n%s", out)
	t.Logf("exit: %v", exit)
	return linuxRun{out: out, exit: exit, stages: stages.String()}
}

func TestLinux(t *testing.T) {
	r := runLinux(t, `
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
echo "cpus=$($B nproc) hwrng=$($B head -c 64 /dev/hwrng | $B wc -c)"
echo "$($B grep -c '^apicid.*: [01]$' /proc/cpuinfo) ids, $($B grep -c 'edge *virtio' /proc/interrupts) interrupts"
$B cat /proc/cmdline /proc/interrupts
$B dmesg
$B reboot -f
`, func(c *Config) { c.Cmdline = os.Getenv("RUNV_TEST_CMDLINE") })
	if r.exit.Reason != ExitReset {
		t.Errorf("exit = %v; want a reset", r.exit)
	}
	for _, want := range []string{"cpus=2 hwrng=64", "2 ids, 2 interrupts", "crng init done"} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("the console lacks %q", want)
		}
	}
}

// TestLinuxLarge has more processors than the host and memory on both sides of
// the gap.
func TestLinuxLarge(t *testing.T) {
	r := runLinux(t, `
$B mount -t proc proc /proc
[ $($B awk '/^MemTotal/{print $2}' /proc/meminfo) -gt 4700000 ] && echo memory is there
echo "cpus=$($B nproc)"
$B reboot -f
`, func(c *Config) {
		c.VCPUs = 8
		c.MemoryBytes = 5 << 30
	})
	for _, want := range []string{"memory is there", "cpus=8"} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("the console lacks %q", want)
		}
	}
}

func TestLinuxPanic(t *testing.T) {
	r := runLinux(t, "exit 3\n", nil)
	if r.exit.Reason != ExitReset || !strings.Contains(r.out.String(), "Attempted to kill init") {
		t.Errorf("exit = %v; want a reset after a panic", r.exit)
	}
}

// TestLinuxTripleFault reboots the way that leaves KVM no other word for it.
func TestLinuxTripleFault(t *testing.T) {
	r := runLinux(t, "$B reboot -f\n", func(c *Config) { c.Cmdline = "reboot=t" })
	if r.exit.Reason != ExitShutdown {
		t.Errorf("exit = %v; want a triple fault", r.exit)
	}
}

// TestLinuxPause stops a busy guest over and over: it finishes its work all the
// same, on both processors, and does not complain about lost time.
func TestLinuxPause(t *testing.T) {
	done := make(chan struct{})
	r := runLinuxVM(t, `
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
work() { i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo done; }
work & work & wait
$B dmesg | $B grep -E 'stall|lockup|unstable'
$B reboot -f
`, nil, func(vm *VM) {
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				if err := vm.Pause(); err != nil {
					return
				}
				time.Sleep(time.Duration(i%10) * time.Millisecond)
				if err := vm.Resume(); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	})
	<-done
	out := r.out.String()
	if r.exit.Reason != ExitReset || strings.Count(out, "done") != 2 {
		t.Errorf("exit = %v", r.exit)
	}
	for _, bad := range []string{"stall", "lockup", "unstable"} {
		if strings.Contains(out, bad) {
			t.Errorf("the console has %q", bad)
		}
	}
}
