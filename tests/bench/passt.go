package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// passtName is that of QEMU's machine whose network card is passt's.
const passtName = "QEMU, passt"

// cardModules are what a distribution's kernel needs for the network card.
var cardModules = []string{"virtio_mmio", "virtio_net"}

// passt is a machine of QEMU whose network is sockets of the bridged namespace,
// made by passt, as the one of runv's guests is.
type passt struct {
	kernel, initrd, socket, dir string
}

// newPasst makes a root that runs the program and nothing else. The kernel of
// runv's guests knows no network card: this one is a distribution's.
func (b *bench) newPasst(ctx context.Context, program string) (*passt, error) {
	if b.hostKernel == "" {
		return nil, errors.New("no kernel with a network card was found for it")
	}
	for _, tool := range []string{"passt", "qemu-system-x86_64", "modprobe", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, err
		}
	}
	p := &passt{kernel: filepath.Join(b.dir, "passt-kernel"), initrd: filepath.Join(b.dir, "passt-initrd"), socket: filepath.Join(b.dir, "passt-socket"), dir: b.dir}
	if err := copyFile(p.kernel, b.hostKernel, 0o644); err != nil {
		return nil, err
	}
	root := filepath.Join(b.dir, "passt-root")
	for _, d := range []string{"bin", "dev", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := copyFile(filepath.Join(root, "tsi"), program, 0o755); err != nil {
		return nil, err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	if err := copyFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
		return nil, err
	}
	modules, err := copyModules(ctx, root, b.hostKernel)
	if err != nil {
		return nil, err
	}
	var init strings.Builder
	init.WriteString("#!/bin/busybox sh\nbusybox mount -t proc proc /proc\n")
	for _, m := range modules {
		fmt.Fprintf(&init, "busybox insmod /%s\n", m)
	}
	for _, args := range []string{
		"link set lo up", "address add " + bridgedAddress + "/" + bridgeBits + " dev eth0", "link set eth0 up",
		"route add default via " + bridgeAddress,
	} {
		fmt.Fprintf(&init, "busybox ip %s\n", args)
	}
	fmt.Fprintf(&init, "%s\nbusybox reboot -f\n", strings.Join(b.speed("/tsi", bridgeAddress), " "))
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(init.String()), 0o755); err != nil {
		return nil, err
	}
	return p, output(ctx, "sh", "-c", `cd "$0" && find . | busybox cpio -o -H newc >"$1"`, root, p.initrd)
}

// copyModules unpacks the card's modules, and has their names in the order they
// are loaded in. The kernel is named as modprobe knows it, vmlinuz-VERSION.
func copyModules(ctx context.Context, root, kernel string) ([]string, error) {
	_, version, _ := strings.Cut(filepath.Base(kernel), "-")
	args := append([]string{"-a", "-S", version, "-D"}, cardModules...)
	listed, err := exec.CommandContext(ctx, "modprobe", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("modprobe: no %s for %s: %w", strings.Join(cardModules, ", "), kernel, err)
	}
	var names []string
	for line := range strings.Lines(string(listed)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
		if !ok {
			continue // builtin
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(path, ".xz") {
			cmd := exec.CommandContext(ctx, "xz", "-dc")
			cmd.Stdin = bytes.NewReader(data)
			data, err = cmd.Output()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".xz")
		if err := os.WriteFile(filepath.Join(root, name), data, 0o644); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// run boots the machine, which ends with the program.
func (p *passt) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := os.RemoveAll(p.socket); err != nil {
		return "", err
	}
	// It refuses to be root's, and makes its socket as nobody.
	if err := os.Chmod(p.dir, 0o1777); err != nil {
		return "", err
	}
	var said bytes.Buffer
	gateway := exec.CommandContext(ctx, "ip", "netns", "exec", bridged, "passt", "--foreground", "--one-off", "--socket", p.socket,
		"--interface", "eth0", "--ipv4-only", "--no-map-gw", "--no-dhcp", "--tcp-ports", "none", "--udp-ports", "none")
	gateway.Stdout, gateway.Stderr = &said, &said
	if err := gateway.Start(); err != nil {
		return "", err
	}
	defer func() {
		_ = gateway.Process.Kill() // it ends with the machine
		_ = gateway.Wait()
	}()
	for range 500 {
		if _, err := os.Stat(p.socket); err == nil {
			break
		}
		time.Sleep(again)
	}
	var stderr strings.Builder
	machine := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "microvm,isa-serial=on", "-accel", "kvm", "-cpu", "host", "-m", "256", "-smp", "1",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", p.kernel, "-initrd", p.initrd, "-append", "console=ttyS0 quiet panic=-1 reboot=t",
		"-netdev", "stream,id=net,server=off,addr.type=unix,addr.path="+p.socket, "-device", "virtio-net-device,netdev=net")
	machine.Stderr = &stderr
	out, err := machine.Output()
	text := strings.ReplaceAll(string(out), "\r", "")
	if err == nil && len(parseFigures(text)) == 0 {
		err = errors.New("nothing was measured")
	}
	if err != nil {
		err = fmt.Errorf("QEMU: %w: %s; passt: %s; the guest: %s", errors.Join(ctx.Err(), err), stderr.String(), said.String(), lastLine(out))
	}
	return text, err
}
