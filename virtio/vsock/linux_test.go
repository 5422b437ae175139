//go:build integration

package vsock_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/vsock"
	"runv.dev/runv/vmm"
)

// This test boots Linux with the test program itself as init, which offers the
// services of linux_guest_test.go on vsock ports: it needs a KVM that can run
// a kernel (the test host), a statically linked test program, and the guest
// kernel in RUNV_TEST_KERNEL.

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		guestMain()
	}
	os.Exit(m.Run())
}

// initrd is a newc archive with this program as init.
func initrd(t *testing.T) *io.SectionReader {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	add := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", 0o40755, 0, 0, nil)
	add("dev/console", 0o20600, 5, 1, nil)
	add("dev/null", 0o20666, 1, 3, nil)
	add("init", 0o100755, 0, 0, self)
	add("TRAILER!!!", 0, 0, 0, nil)
	return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len()))
}

func bootLinux(t *testing.T, d *vsock.Device) {
	t.Helper()
	path := os.Getenv("RUNV_TEST_KERNEL")
	kernel, err := os.Open(path)
	if err != nil {
		t.Fatalf("RUNV_TEST_KERNEL: %v", err)
	}
	defer kernel.Close()
	st, err := kernel.Stat()
	if err != nil {
		t.Fatal(err)
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kvm.Close()
	hello, err := d.Listen(helloPort)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := vmm.New(vmm.Config{
		KVM:         kvm,
		Kernel:      io.NewSectionReader(kernel, 0, st.Size()),
		Initrd:      initrd(t),
		MemoryBytes: 512 << 20,
		VCPUs:       2,
		Devices:     []virtio.Device{console.New(console.Port{Console: true, Out: t.Output()}), d},
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		exit, err := vm.Run(ctx)
		t.Logf("the VM has ended: %v, %v", exit, err)
		hello.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	c, err := hello.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Fatalf("the guest says %q, %v", b, err)
	}
}

func dial(t *testing.T, d *vsock.Device, port uint32) *vsock.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := d.Dial(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	t.Cleanup(func() { c.Close() })
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestLinux(t *testing.T) {
	d := vsock.New(vsock.Options{CID: 3, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	bootLinux(t, d)

	t.Run("echo", func(t *testing.T) {
		c := dial(t, d, echoPort)
		data := random(4 << 20)
		go func() {
			c.Write(data)
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		if _, err := d.Dial(t.Context(), 9999); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial = %v", err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				c, err := d.Dial(t.Context(), echoPort)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				data := random(10_000 + i)
				go func() {
					c.Write(data)
					c.CloseWrite()
				}()
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
				}
			})
		}
		wg.Wait()
	})
	const bulk = 32 << 20
	t.Run("to the guest", func(t *testing.T) {
		c := dial(t, d, sinkPort)
		block := random(1 << 20)
		start := time.Now()
		for range bulk / len(block) {
			if _, err := c.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		c.CloseWrite()
		var n uint64
		if err := binary.Read(c, binary.LittleEndian, &n); n != bulk || err != nil {
			t.Errorf("the guest got %d bytes, %v", n, err)
		}
		t.Logf("%.1f MB/s", bulk/1e6/time.Since(start).Seconds())
	})
	t.Run("from the guest", func(t *testing.T) {
		c := dial(t, d, sourcePort)
		start := time.Now()
		if err := binary.Write(c, binary.LittleEndian, uint64(bulk/blockSize)); err != nil {
			t.Fatal(err)
		}
		want, got := pattern(blockSize), make([]byte, blockSize)
		for i := range bulk / blockSize {
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("block %d: %v", i, err)
			}
		}
		if n, err := c.Read(got); n != 0 || err != io.EOF {
			t.Errorf("Read = %d, %v", n, err)
		}
		t.Logf("%.1f MB/s", bulk/1e6/time.Since(start).Seconds())
	})
	t.Run("small packets to a slow reader", func(t *testing.T) {
		c := dial(t, d, slowPort)
		data := random(200)
		h := sha256.New()
		for range 5000 {
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			h.Write(data)
		}
		c.CloseWrite()
		if sum, err := io.ReadAll(c); err != nil || !bytes.Equal(sum, h.Sum(nil)) {
			t.Errorf("%x, %v", sum, err)
		}
	})
	t.Run("a reader that never reads", func(t *testing.T) {
		c := dial(t, d, holdPort)
		c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Write(make([]byte, 4<<20))
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v", n, err)
		}
	})
	t.Run("the guest closes", func(t *testing.T) {
		c := dial(t, d, closePort)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read = %d, %v", n, err)
		}
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				if !errors.Is(err, syscall.EPIPE) {
					t.Errorf("Write = %v", err)
				}
				break
			}
		}
	})
	t.Run("the guest dials", func(t *testing.T) {
		l, err := d.Listen(2000)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for port, want := range map[uint32]string{2000: "<nil>", 2001: syscall.ECONNRESET.Error()} {
			c := dial(t, d, dialPort)
			if err := binary.Write(c, binary.LittleEndian, port); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if string(got) != want || err != nil {
				t.Errorf("port %d: %q, %v; want %q", port, got, err, want)
			}
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "dialed" || err != nil {
			t.Errorf("the guest sent %q, %v", b, err)
		}
	})
	t.Run("seqpacket", func(t *testing.T) {
		c, err := d.DialSeqpacket(t.Context(), seqpacketPort)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, 128<<10)
		for i, n := range []int{1, 100, 64 << 10, 5, 100 << 10, 3} {
			data := random(n)
			if _, err := c.WriteMessage(data, i%2 == 0); err != nil {
				t.Fatal(err)
			}
			m, eor, err := c.ReadMessage(buf)
			if err != nil || !bytes.Equal(buf[:m], data) || eor != (i%2 == 0) {
				t.Fatalf("%d bytes came back as %d, eor %v, %v", n, m, eor, err)
			}
		}
	})
	t.Run("round trips", func(t *testing.T) {
		c := dial(t, d, echoPort)
		b := []byte{0}
		const n = 500
		start := time.Now()
		for range n {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%v each", time.Since(start)/n)
	})
	t.Run("transport reset", func(t *testing.T) {
		c := dial(t, d, echoPort)
		g := dial(t, d, waitPort) // reports how its connection ends
		d.TransportReset(3)
		for _, c := range []*vsock.Conn{c, g} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Read = %v", err)
			}
		}
		c = dial(t, d, waitedPort)
		// ENOTCONN if the event was faster than the read.
		b, err := io.ReadAll(c)
		if how := string(b); err != nil || how != syscall.ECONNRESET.Error() && how != syscall.ENOTCONN.Error() {
			t.Errorf("the guest's read ended with %q, %v", b, err)
		}
	})
}
