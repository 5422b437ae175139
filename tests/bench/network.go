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

// place is where the program runs; it has what the program said.
type place func(context.Context) (string, error)

// network measures sockets between a program and a peer: in one network
// namespace, the program natively and in containers that have this namespace,
// and across a bridge.
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
	removeBridged, err := makeBridged(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(removeBridged(), err) }()
	end, err := startPeer(program)
	if err != nil {
		return err
	}
	defer end()
	places, err := b.places(ctx, program)
	if err != nil {
		return err
	}
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		out, err := places[r.name](ctx)
		for _, f := range parseFigures(out) { // as far as it got
			b.addBeside(native, f.name, f.unit, r.name, f.value)
		}
		return err
	})
}

// speed is the program's command line for a peer at an address.
func (b *bench) speed(program, address string) []string {
	return []string{program, "speed", address, fmt.Sprint(b.seconds)}
}

// places makes those where the program runs, by the names of the runtimes, and
// gives each of them a turn.
func (b *bench) places(ctx context.Context, program string) (map[string]place, error) {
	loopback, across := filepath.Join(b.dir, "network"), filepath.Join(b.dir, "network-bridged")
	if err := writeNetworkBundle(loopback, program, inNetns, b.speed("/tsi", address)); err != nil {
		return nil, err
	}
	if err := writeNetworkBundle(across, program, inNamespace(bridgedPath), b.speed("/tsi", bridgeAddress)); err != nil {
		return nil, err
	}
	b.buildTemplates(ctx, loopback)
	places := map[string]place{native: func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		args := append([]string{"netns", "exec", netns}, b.speed(program, address)...)
		out, err := exec.CommandContext(ctx, "ip", args...).Output()
		return string(out), err
	}}
	turns := []*runtime{{name: native}}
	for _, r := range b.runtimes {
		places[r.name] = r.in(loopback)
		turns = append(turns, r)
	}
	for _, r := range b.runtimes {
		if r.name == base || r.template {
			name := r.name + " bridged"
			places[name] = r.in(across)
			turns = append(turns, &runtime{name: name})
		}
	}
	machine, err := b.newPasst(ctx, program)
	if err != nil {
		b.fail(passtName, err)
	} else {
		places[passtName] = machine.run
		turns = append(turns, &runtime{name: passtName})
	}
	b.runtimes, b.Programs = turns, nil
	for _, r := range turns {
		b.Programs = append(b.Programs, r.name)
	}
	return places, nil
}

// in is a container of the runtime.
func (r *runtime) in(bundle string) place {
	return func(ctx context.Context) (string, error) {
		done, err := r.command(ctx, "run", "--bundle", bundle, "network")
		return done.stdout, err
	}
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

// writeNetworkBundle makes a bundle whose process is the program, /tsi, in a
// network namespace.
func writeNetworkBundle(dir, program string, network object, args []string) error {
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(dir, "rootfs/tsi"), program, 0o755); err != nil {
		return err
	}
	c := config(args...)
	spaces := append(namespaces("pid", "ipc", "uts", "mount"), network)
	c["linux"] = object{"namespaces": spaces}
	return writeConfig(dir, c)
}
