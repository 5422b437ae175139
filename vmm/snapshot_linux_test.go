//go:build integration

package vmm

import (
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/vmm/snapshot"
)

// watcher is a console of which tests wait for a text.
type watcher struct {
	mu      sync.Mutex
	changed sync.Cond
	text    strings.Builder
}

func newWatcher() *watcher {
	w := &watcher{}
	w.changed.L = &w.mu
	return w
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	w.changed.Broadcast()
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// until waits until the guest has written text.
func (w *watcher) until(t *testing.T, text string) {
	t.Helper()
	timeout := time.AfterFunc(2*time.Minute, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.text.WriteString("\n(time is up)" + text)
		w.changed.Broadcast()
	})
	defer timeout.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !strings.Contains(w.text.String(), text) {
		w.changed.Wait()
	}
	if strings.Contains(w.text.String(), "(time is up)") {
		t.Fatalf("the guest does not write %q:\n%s", text, w.text.String())
	}
}

// TestSnapshotLinux saves a Linux that uses timers, both processors, the
// console and the entropy device, and goes on from there three times, twice at
// the same moment. The template's first life ends with the snapshot.
func TestSnapshotLinux(t *testing.T) {
	dir := t.TempDir()
	config := func(out *watcher) Config {
		return Config{
			KVM:         openKVM(t),
			MemoryBytes: 512 << 20,
			VCPUs:       2,
			Devices: []virtio.Device{
				console.New(console.Port{Console: true, Out: out}),
				rng.New(rand.Reader),
			},
			Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
	}
	out := newWatcher()
	cfg := config(out)
	cfg.Kernel = linuxKernel(t)
	cfg.Initrd = initrd(t, `
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
echo kept >/tmp-file
i=0
while [ $i -lt 1000 ]; do
	i=$((i + 1))
	$B taskset -c $((i % 2)) $B sleep 0.05
	echo "tick $i, $($B head -c 16 /dev/hwrng | $B wc -c) bytes, $($B cat /tmp-file)"
	[ -e /sys/nothing ] && exit
done
`)
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan Exit, 1)
	go func() {
		exit, err := vm.Run(t.Context())
		if err != nil {
			t.Error(err)
		}
		ended <- exit
	}()
	out.until(t, "tick 3,")
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "memory")
	memory, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	machine, err := vm.Save(memory)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	if exit := <-ended; exit.Reason != ExitStopped {
		t.Fatalf("exit = %v", exit)
	}
	encoded := machine.Encode()
	t.Logf("%d bytes of state, %d MiB of memory in %d extents", len(encoded), machine.Memory.Bytes()>>20, len(machine.Memory.Extents))
	before := out.String()
	last := before[strings.LastIndex(before, "tick "):]
	last = last[:strings.IndexByte(last, ',')]

	clone := func(t *testing.T) {
		t.Helper()
		out := newWatcher()
		cfg := config(out)
		decoded, err := snapshot.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cfg.Snapshot = &Snapshot{Machine: decoded, Memory: file}
		vm, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Close()
		go vm.Run(t.Context())
		for _, tick := range []string{"tick 5, 16 bytes, kept", "tick 9, 16 bytes, kept"} {
			out.until(t, tick)
		}
		if s := out.String(); strings.Contains(s, "tick 2,") || strings.Contains(s, "Linux version") {
			t.Errorf("the clone began before the snapshot, at %q:\n%s", last, s)
		}
	}
	clone(t)
	t.Run("clones", func(t *testing.T) {
		for range 2 {
			t.Run("at once", func(t *testing.T) {
				t.Parallel()
				clone(t)
			})
		}
	})
}
