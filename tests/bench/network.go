package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// native is the name of the program outside of containers.
const native = "native"

// network measures sockets between a program and a peer in one network
// namespace, the program natively and in containers that have this namespace.
func network(ctx context.Context, b *bench) (err error) {
	if b.sockets == "" {
		return errors.New("network: want --sockets")
	}
	program := filepath.Join(b.dir, "sockets")
	if err := copyFile(program, b.sockets, 0o755); err != nil {
		return err
	}
	remove, err := makeNetns(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	end, err := startPeer(program)
	if err != nil {
		return err
	}
	defer end()
	speed := []string{"speed", address, fmt.Sprint(b.seconds)}
	bundle := filepath.Join(b.dir, "network")
	if err := writeNetworkBundle(bundle, program, speed); err != nil {
		return err
	}
	b.buildTemplates(ctx, bundle)
	b.runtimes = append([]*runtime{{name: native, path: "ip", dir: b.dir}}, b.runtimes...)
	b.Programs = append([]string{native}, b.Programs...)
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		out, err := r.speed(ctx, bundle, append([]string{program}, speed...))
		for _, f := range parseFigures(out) { // as far as it got
			b.addBeside(native, f.name, f.unit, r.name, f.value)
		}
		return err
	})
}

// speed runs the program, and has what it said.
func (r *runtime) speed(ctx context.Context, bundle string, args []string) (string, error) {
	if r.name != native {
		done, err := r.command(ctx, "run", "--bundle", bundle, "network")
		return done.stdout, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", netns}, args...)...).Output()
	return string(out), err
}

// startPeer runs the peer and waits until it listens.
func startPeer(program string) (end func(), err error) {
	peer := exec.Command("ip", "netns", "exec", netns, program, "peer")
	out, err := peer.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := peer.Start(); err != nil {
		return nil, err
	}
	end = func() {
		_ = peer.Process.Kill() // it may have ended
		_ = peer.Wait()
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		end()
		return nil, fmt.Errorf("the peer does not start: %w", err)
	}
	return end, nil
}

// writeNetworkBundle makes a bundle whose process is the program.
func writeNetworkBundle(dir, program string, args []string) error {
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(dir, "rootfs/tsi"), program, 0o755); err != nil {
		return err
	}
	c := config(append([]string{"/tsi"}, args...)...)
	spaces := append(namespaces("pid", "ipc", "uts", "mount"), inNetns)
	c["linux"] = object{"namespaces": spaces}
	return writeConfig(dir, c)
}
