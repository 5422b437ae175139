//go:build integration

package vmm

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/vsock"
)

// late is a device whose queues are served some time after the driver is ready,
// as on a host that has no time for the VM.
type late struct {
	*vsock.Device
	t     *testing.T
	delay time.Duration
}

func (l late) Activate(a virtio.Activation) error {
	time.AfterFunc(l.delay, func() {
		if err := l.Device.Activate(a); err != nil {
			l.t.Error(err)
		}
	})
	return nil
}

// TestLateHello: the agent's hello comes through when the host takes longer to
// answer than Linux waits by itself.
func TestLateHello(t *testing.T) {
	device := vsock.New(vsock.Options{CID: 3})
	hello, err := device.Listen(protocol.HelloPort)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.Open(filepath.Join(filepath.Dir(os.Getenv("RUNV_TEST_KERNEL")), "initrd.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	defer initrd.Close()
	st, err := initrd.Stat()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	context.AfterFunc(ctx, func() { hello.Close() })
	said := make(chan error, 1)
	go func() {
		conn, err := hello.Accept()
		if err == nil {
			err = protocol.ReadHello(conn)
			conn.Close()
		}
		said <- err
		cancel()
	}()
	out := &transcript{start: time.Now()}
	vm, err := New(Config{
		KVM:         openKVM(t),
		Kernel:      linuxKernel(t),
		Initrd:      io.NewSectionReader(initrd, 0, st.Size()),
		MemoryBytes: 512 << 20,
		VCPUs:       1,
		Devices:     []virtio.Device{console.New(console.Port{Console: true, Out: out}), late{device, t, 15 * time.Second}},
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := vm.Run(ctx)
	if err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := <-said; err != nil {
		t.Errorf("hello: %v; the VM: %v; its console:\n%s", err, exit, out)
	}
	if err := vm.Close(); err != nil {
		t.Error(err)
	}
}
