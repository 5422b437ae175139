package vmm

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"runv.dev/runv/virtio"
)

// Guests.
var (
	guestReset       = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe} // mov al, 0xfe; out 0x64, al; jmp .
	guestTripleFault = []byte{0x0f, 0x0b}                         // ud2, with an empty IDT
	guestSpin        = []byte{0xeb, 0xfe}                         // jmp .
	guestHalt        = []byte{0xfa, 0xf4, 0xeb, 0xfc}             // cli; hlt; jmp back
	guestPIO         = []byte{0xe6, 0x80, 0xeb, 0xfc}             // out 0x80, al; jmp back
)

func mustNew(t testing.TB, cfg Config) *VM {
	t.Helper()
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	return vm
}

func TestExit(t *testing.T) {
	for _, tc := range []struct {
		name string
		code []byte
		want ExitReason
	}{
		{"reset", guestReset, ExitReset},
		{"triple fault", guestTripleFault, ExitShutdown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm := mustNew(t, tinyConfig(t, 2, tc.code...))
			exit, err := vm.Run(t.Context())
			if err != nil || exit.Reason != tc.want {
				t.Errorf("Run = %v, %v; want %v", exit, err, tc.want)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	for name, code := range map[string][]byte{"spin": guestSpin, "halt": guestHalt, "pio": guestPIO} {
		t.Run(name, func(t *testing.T) {
			vm := mustNew(t, tinyConfig(t, 2, code...))
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(20*time.Millisecond, func() { cancel(errors.New("enough")) })
			exit, err := vm.Run(ctx)
			if err != nil || exit.Reason != ExitStopped || exit.Detail != "enough" {
				t.Errorf("Run = %v, %v; want it stopped", exit, err)
			}
			if _, err := vm.Run(t.Context()); err == nil {
				t.Error("a second Run succeeds")
			}
			if err := vm.Pause(); !errors.Is(err, ErrStopped) {
				t.Errorf("Pause = %v; want ErrStopped", err)
			}
		})
	}
}

func TestCancelledBeforeRun(t *testing.T) {
	vm := mustNew(t, tinyConfig(t, 1, guestReset...))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if exit, err := vm.Run(ctx); err != nil || exit.Reason != ExitStopped {
		t.Errorf("Run = %v, %v", exit, err)
	}
}

func TestCloseWhileRunning(t *testing.T) {
	vm := mustNew(t, tinyConfig(t, 2, guestSpin...))
	done := make(chan Exit)
	go func() {
		exit, err := vm.Run(t.Context())
		if err != nil {
			t.Error(err)
		}
		done <- exit
	}()
	time.Sleep(10 * time.Millisecond)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := vm.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if exit := <-done; exit.Reason != ExitStopped {
		t.Errorf("exit = %v", exit)
	}
}

// TestPause counts the guest's port writes: none may happen between Pause and
// Resume.
func TestPause(t *testing.T) {
	vm := mustNew(t, tinyConfig(t, 2, guestPIO...))
	if err := vm.Pause(); err != nil { // before Run
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if exit, err := vm.Run(ctx); err != nil || exit.Reason != ExitStopped {
			t.Errorf("Run = %v, %v", exit, err)
		}
	}()
	count := func() uint64 { // safe while the vCPU is parked
		vm.mu.Lock()
		defer vm.mu.Unlock()
		return vm.vcpus[0].exits.pio
	}
	var last uint64
	for i := range 300 {
		if err := vm.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i%7) * 100 * time.Microsecond)
		if err := vm.Pause(); err != nil {
			t.Fatal(err)
		}
		n := count()
		if i%50 == 0 {
			time.Sleep(2 * time.Millisecond)
			if m := count(); m != n {
				t.Fatalf("%d exits while paused", m-n)
			}
		}
		last = n
	}
	if last == 0 {
		t.Error("the guest never ran")
	}
	cancel()
	<-done
}

// TestPauseRaces has everybody call everything at once.
func TestPauseRaces(t *testing.T) {
	vm := mustNew(t, tinyConfig(t, 4, guestPIO...))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := vm.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 200 {
				if (i+j)%2 == 0 {
					_ = vm.Pause() // may lose against a Resume
				} else if err := vm.Resume(); err != nil {
					t.Error(err)
				}
				if j%10 == 0 {
					runtime.GC() // preemption signals
				}
			}
		})
	}
	wg.Wait()
	cancel()
	<-done
}

// TestNothingLeft: no descriptor and no thread stays.
func TestNothingLeft(t *testing.T) {
	if n := countDir(t, "/proc/self/fd"); n == 0 {
		t.Fatal("no descriptors counted")
	}
	cycle := func() {
		cfg := tinyConfig(t, 4, guestSpin...)
		defer cfg.KVM.Close()
		vm := mustNew(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := vm.Run(ctx); err != nil {
			t.Error(err)
		}
	}
	cycle() // what the Go runtime keeps
	fds, threads, procs := countDir(t, "/proc/self/fd"), countVCPUThreads(t), runtime.GOMAXPROCS(0)
	for range 20 {
		cycle()
	}
	if n := countDir(t, "/proc/self/fd"); n > fds {
		t.Errorf("%d descriptors; %d before", n, fds)
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS is %d; %d before", n, procs)
	}
	for try := 0; countVCPUThreads(t) > threads; try++ { // exiting threads linger a moment
		if try == 100 {
			t.Fatalf("%d vCPU threads; %d before", countVCPUThreads(t), threads)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func countDir(t *testing.T, dir string) int {
	t.Helper()
	e, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// countVCPUThreads counts by name. A goroutine on the main thread parks that
// instead of ending it, once per process at most.
func countVCPUThreads(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range e {
		if b, err := os.ReadFile("/proc/self/task/" + d.Name() + "/comm"); err == nil && len(b) > 4 && string(b[:4]) == "vcpu" {
			n++
		}
	}
	return n
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no KVM":         func(c *Config) { c.KVM = nil },
		"no kernel":      func(c *Config) { c.Kernel = nil },
		"no vCPUs":       func(c *Config) { c.VCPUs = 0 },
		"too many vCPUs": func(c *Config) { c.VCPUs = 255 },
		"little memory":  func(c *Config) { c.MemoryBytes = 2 << 20 },
		"odd memory":     func(c *Config) { c.MemoryBytes++ },
		"a bad kernel":   func(c *Config) { c.Kernel = tinyKernel(t, nil) },
		"a long cmdline": func(c *Config) { c.Cmdline = string(make([]byte, 4096)) },
		"another as KVM": func(c *Config) { c.KVM = devNull(t) },
		"many devices":   func(c *Config) { c.Devices = make([]virtio.Device, maxDevices+1) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tinyConfig(t, 1, guestSpin...)
			change(&cfg)
			fds := countDir(t, "/proc/self/fd")
			if vm, err := New(cfg); err == nil {
				vm.Close()
				t.Fatal("New succeeds")
			} else {
				t.Log(err)
			}
			if n := countDir(t, "/proc/self/fd"); n != fds {
				t.Errorf("%d descriptors; %d before", n, fds)
			}
		})
	}
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
