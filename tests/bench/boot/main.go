// Command bench-boot boots the guest's kernel and agent in runv and in QEMU's
// microvm machine, in turns, and tells how long it takes until the agent says its
// first line.
//
//	bench-boot [-rounds N] [-memory MIB] [-out FILE] -runv RUNV -kernel VMLINUX -initrd CPIO
//
// Needs root, KVM, busybox and qemu-system-x86_64.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// firstLine is part of what the agent logs before it serves.
const firstLine = "msg=agent version="

// limit bounds one boot.
const limit = 5 * time.Minute

// The measurements: milliseconds since the program was started.
const (
	runvEntered = "runv: first instruction of the guest"
	runvBooted  = "runv: agent"
	qemuBooted  = "QEMU microvm: agent"
)

type bench struct {
	dir, runv, kernel, initrd string
	memory                    int // MiB
	samples                   map[string][]float64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-boot:", err)
		os.Exit(1)
	}
}

func run() error {
	b := &bench{samples: make(map[string][]float64)}
	rounds := flag.Int("rounds", 5, "`N` boots of each")
	out := flag.String("out", "", "write the measurements to `FILE` as JSON")
	flag.IntVar(&b.memory, "memory", 512, "RAM of the guest in `MIB`")
	flag.StringVar(&b.runv, "runv", "bin/runv", "the runtime")
	flag.StringVar(&b.kernel, "kernel", "bin/vmlinux", "the kernel inside it")
	flag.StringVar(&b.initrd, "initrd", "bin/initrd.cpio", "the root inside it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if b.dir, err = os.MkdirTemp("/run", "runv-bench-boot-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(); err != nil {
		return err
	}
	for n := range *rounds {
		fmt.Fprintf(os.Stderr, "boot %d of %d\n", n+1, *rounds)
		if err := errors.Join(b.bootRunv(ctx), b.bootQEMU(ctx)); err != nil {
			return err
		}
	}
	b.table(os.Stdout)
	if *out == "" {
		return nil
	}
	data, err := json.MarshalIndent(map[string]any{"unit": "ms", "samples": b.samples}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(data, '\n'), 0o644)
}

// prepare makes a bundle, and copies to memory what is read.
func (b *bench) prepare() error {
	for _, file := range []*string{&b.runv, &b.kernel, &b.initrd} {
		data, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		*file = filepath.Join(b.dir, filepath.Base(*file))
		if err := os.WriteFile(*file, data, 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	for _, name := range []string{"bin", "dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(b.dir, "rootfs", name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(b.dir, "rootfs/bin/true"), data, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf(`{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
		"process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
		"mounts": [{"destination": "/proc", "type": "proc"}],
		"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}]},
		"annotations": {"run.oci.runv.memory": "%dMiB", "run.oci.runv.vcpus": "1"}}`, b.memory)
	return os.WriteFile(filepath.Join(b.dir, "config.json"), []byte(config), 0o644)
}

// bootRunv runs a container without a template; the log has the times.
func (b *bench) bootRunv(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	log := filepath.Join(b.dir, "log")
	if err := os.RemoveAll(log); err != nil {
		return err
	}
	begun := time.Now()
	text, err := exec.CommandContext(ctx, b.runv, "--root", filepath.Join(b.dir, "state"), "--templates", "off",
		"--debug", "--log", log, "--log-format", "json", "run", "--bundle", b.dir, "boot").CombinedOutput()
	if err != nil {
		return fmt.Errorf("runv: %w: %s", err, text)
	}
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	found := make(map[string]bool)
	for decoder := json.NewDecoder(f); ; {
		var line struct {
			Time             time.Time
			Msg, Stage, From string
		}
		if err := decoder.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", log, err)
		}
		switch {
		case line.Stage == "run":
			b.add(found, runvEntered, line.Time.Sub(begun))
		case line.From == "guest" && strings.Contains(line.Msg, firstLine):
			b.add(found, runvBooted, line.Time.Sub(begun))
		}
	}
	if !found[runvEntered] || !found[runvBooted] {
		return fmt.Errorf("runv: its log has %v only", found)
	}
	return nil
}

func (b *bench) add(found map[string]bool, kind string, took time.Duration) {
	if !found[kind] {
		found[kind] = true
		b.samples[kind] = append(b.samples[kind], float64(took)/float64(time.Millisecond))
	}
}

// bootQEMU boots the same kernel and root with the devices that a guest needs to
// say something, and as little else as QEMU can do.
func (b *bench) bootQEMU(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off", "-accel", "kvm", "-cpu", "host",
		"-m", fmt.Sprint(b.memory), "-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", b.kernel, "-initrd", b.initrd,
		// What the agent says goes to the kernel's log: as a warning, as it has no level.
		"-append", "console=hvc0 quiet loglevel=5 panic=-1 reboot=k dummy.numdummies=0",
		"-device", "virtio-serial-device", "-chardev", "stdio,id=console", "-device", "virtconsole,chardev=console",
		"-device", "virtio-rng-device")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var seen []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.Contains(lines.Text(), firstLine) {
			b.add(make(map[string]bool), qemuBooted, time.Since(begun))
			_ = cmd.Process.Kill() // Wait tells
			_ = cmd.Wait()         // it was killed
			return nil
		}
		seen = append(seen, lines.Text())
	}
	return fmt.Errorf("QEMU: %w: %s; the guest said %q", cmd.Wait(), stderr.String(), seen[max(0, len(seen)-10):])
}

func (b *bench) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "milliseconds since the program began\tmedian\tleast\tmost")
	for _, kind := range []string{runvEntered, runvBooted, qemuBooted} {
		list := slices.Sorted(slices.Values(b.samples[kind]))
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\n", kind, list[len(list)/2], list[0], list[len(list)-1])
	}
	middle := func(kind string) float64 {
		return slices.Sorted(slices.Values(b.samples[kind]))[len(b.samples[kind])/2]
	}
	fmt.Fprintf(w, "runv ÷ QEMU microvm\t%.2f\n", middle(runvBooted)/middle(qemuBooted))
}
