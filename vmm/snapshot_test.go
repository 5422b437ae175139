package vmm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"runv.dev/runv/vmm/kvm"
	"runv.dev/runv/vmm/snapshot"
)

// runsOn waits until the first vCPU has left the guest for I/O n more times.
func runsOn(t *testing.T, vm *VM, n uint64) {
	t.Helper()
	count := func() uint64 {
		if err := vm.Pause(); err != nil {
			t.Fatal(err)
		}
		defer vm.Resume()
		return vm.vcpus[0].exits.pio
	}
	before := count()
	for deadline := time.Now().Add(time.Minute); count() < before+n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the guest does not run")
		}
	}
}

// TestSnapshot saves a machine in the middle of a loop and goes on from there,
// with what has to be refused on the way.
func TestSnapshot(t *testing.T) {
	run := func(vm *VM) (stop func() Exit) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan Exit, 1)
		go func() {
			exit, err := vm.Run(ctx)
			if err != nil {
				t.Error(err)
			}
			ended <- exit
		}()
		return func() Exit { cancel(); return <-ended }
	}
	vm := mustNew(t, tinyConfig(t, 2, guestPIO...))
	stop := run(vm)
	runsOn(t, vm, 10)
	path := filepath.Join(t.TempDir(), "memory")
	memory, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if _, err := vm.Save(memory); err == nil || !strings.Contains(err.Error(), "not paused") {
		t.Errorf("Save of a running machine: %v", err)
	}
	if err := vm.Pause(); err != nil {
		t.Fatal(err)
	}
	machine, err := vm.Save(memory)
	if err != nil {
		t.Fatal(err)
	}
	if exit := stop(); exit.Reason != ExitStopped {
		t.Errorf("exit = %v", exit)
	}
	machine, err = snapshot.Decode(machine.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if rip := machine.VCPUs[0].RIP(); rip < guestEntry || rip > guestEntry+16 {
		t.Errorf("saved at %#x", rip)
	}
	clone := func(change func(*Config)) (*VM, error) {
		cfg := tinyConfig(t, 2, guestPIO...)
		cfg.Kernel = nil
		cfg.Snapshot = &Snapshot{Machine: machine, Memory: memory}
		change(&cfg)
		return New(cfg)
	}
	for range 2 {
		c, err := clone(func(*Config) {})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(c)
		runsOn(t, c, 10)
		if exit := stop(); exit.Reason != ExitStopped {
			t.Errorf("exit = %v", exit)
		}
	}
	other := *machine
	other.CPUID = append([]kvm.CPUIDEntry{{Function: leafFeatures, Index: 77}}, machine.CPUID...)
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"memory", func(c *Config) { c.MemoryBytes *= 2 }, "the snapshot has"},
		{"vCPUs", func(c *Config) { c.VCPUs = 1 }, "the snapshot has 2"},
		{"processor", func(c *Config) { c.Snapshot = &Snapshot{Machine: &other, Memory: memory} }, "another processor"},
		{"memory file", func(c *Config) {
			empty, err := os.Create(path + "-empty")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { empty.Close() })
			c.Snapshot = &Snapshot{Machine: machine, Memory: empty}
		}, "size"},
	} {
		if vm, err := clone(tc.change); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", tc.name, vm, err, tc.want)
		}
	}
}
