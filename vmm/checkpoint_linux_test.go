//go:build integration

package vmm

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/vmm/snapshot"
)

// checkpoints is how often TestCheckpointLinux saves a machine. RUNV_TEST_CHECKPOINTS
// changes it.
const checkpoints = 4

// TestCheckpointLinux saves a guest again and again while it uses both processors,
// timers, interrupts and a device. It goes on each time, and so does a machine
// that is made of what was saved.
func TestCheckpointLinux(t *testing.T) {
	count := checkpoints
	if s := os.Getenv("RUNV_TEST_CHECKPOINTS"); s != "" {
		if _, err := fmt.Sscan(s, &count); err != nil {
			t.Fatal(err)
		}
	}
	config := func(out *watcher) Config {
		return Config{
			KVM:         openKVM(t),
			MemoryBytes: 256 << 20,
			VCPUs:       2,
			Devices: []virtio.Device{
				console.New(console.Port{Console: true, Out: out}),
				rng.New(rand.Reader),
			},
			Checkpoints: true,
			Log:         slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
		}
	}
	out := newWatcher()
	cfg := config(out)
	cfg.Kernel = linuxKernel(t)
	cfg.Initrd = initrd(t, `
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
( while true; do $B head -c 4096 /dev/hwrng >/dev/null; done ) &
i=0
while true; do
	i=$((i + 1))
	$B taskset -c $((i % 2)) $B sleep 0.02
	echo "tick $i."
done
`)
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	go vm.Run(t.Context())
	tick := func(n int) string { return fmt.Sprintf("tick %d.", n) }
	last := 3
	for i := range count {
		out.until(t, tick(last))
		if err := vm.Pause(); err != nil {
			t.Fatal(err)
		}
		var memory bytes.Buffer
		machine, err := vm.Checkpoint(&memory)
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Resume(); err != nil {
			t.Fatal(err)
		}
		for bytes.Contains([]byte(out.String()), []byte(tick(last))) {
			last++
		}
		out.until(t, tick(last+3))
		decoded, err := snapshot.Decode(machine.Encode())
		if err != nil {
			t.Fatal(err)
		}
		again := newWatcher()
		cfg := config(again)
		cfg.Snapshot = &Snapshot{Machine: decoded, Copy: &memory}
		other, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		go other.Run(t.Context())
		again.until(t, tick(last+5))
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("checkpoint %d at tick %d: %d MiB", i, last, machine.Memory.Bytes()>>20)
		last += 4
	}
}
