package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// microvm is the name of QEMU's machine in the reports.
const microvm = "QEMU microvm"

// firstLine is part of what the agent logs before it serves.
const firstLine = "msg=agent version="

// qemu boots the guest's kernel and root in QEMU's microvm machine.
type qemu struct {
	kernel, initrd string
	memory         int // MiB
}

// machine is one that has booted.
type machine struct {
	took time.Duration // until the agent said its first line
	end  func()
}

// boot boots a machine with the devices that a guest needs to say something, and
// as little else as QEMU can do.
func (q qemu) boot(ctx context.Context) (*machine, error) {
	cmd := exec.Command("qemu-system-x86_64",
		"-machine", "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off", "-accel", "kvm", "-cpu", "host",
		"-m", fmt.Sprint(q.memory), "-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", q.kernel, "-initrd", q.initrd,
		// What the agent says goes to the kernel's log: as a warning, as it has no level.
		"-append", "console=hvc0 quiet loglevel=5 panic=-1 reboot=k dummy.numdummies=0",
		"-device", "virtio-serial-device", "-chardev", "stdio,id=console", "-device", "virtconsole,chardev=console",
		"-device", "virtio-rng-device")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := func() { _ = cmd.Process.Kill() } // Wait tells
	timer := time.AfterFunc(limit, kill)
	defer timer.Stop()
	defer context.AfterFunc(ctx, kill)()
	var seen []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if strings.Contains(lines.Text(), firstLine) {
			m := &machine{took: time.Since(begun)}
			read := make(chan struct{})
			go func() {
				defer close(read)
				for lines.Scan() { // so that the guest can go on
				}
			}()
			m.end = func() {
				kill()
				<-read
				_ = cmd.Wait() // it was killed
			}
			return m, nil
		}
		seen = append(seen, lines.Text())
	}
	return nil, fmt.Errorf("QEMU: %w: %s; the guest said %q", errors.Join(ctx.Err(), cmd.Wait()), stderr.String(), seen[max(0, len(seen)-10):])
}

// idleMachines are some that wait for what never comes.
type idleMachines struct {
	qemu
	mu      sync.Mutex
	running []*machine
}

func (q *idleMachines) String() string { return microvm }

func (q *idleMachines) start(ctx context.Context, _ int) error {
	m, err := q.boot(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = append(q.running, m)
	return nil
}

func (q *idleMachines) stop(context.Context, int) error {
	for _, m := range q.running {
		m.end()
	}
	return nil
}
