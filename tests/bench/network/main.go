// Command network measures sockets side by side: between a program and a peer in
// one network namespace, the program natively and in a container of each runtime
// that has this namespace.
//
//	network [-seconds N] [-out FILE] -program FILE NAME=PATH…
//
// FILE is what tests/tsi/build makes. It needs root and ip(8).
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

const (
	// namespace is the network namespace of all.
	namespace = "runv-bench"
	// address is where the peer is: on the loopback device.
	address = "127.0.0.1"
	// native is the name of the program outside of containers.
	native = "native"
	// limit bounds one program.
	limit = 10 * time.Minute
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "network:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	seconds := flag.Float64("seconds", 3, "`N` for each measurement")
	out := flag.String("out", "", "write the measurements to `FILE` as JSON")
	program := flag.String("program", "", "the `FILE` that tests/tsi/build made")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("/run", "runv-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{{"netns", "add", namespace}, {"-n", namespace, "link", "set", "lo", "up"}} {
		if text, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %q: %w: %s", args, err, text)
		}
	}
	defer exec.Command("ip", "netns", "del", namespace).Run()
	end, err := startPeer(*program)
	if err != nil {
		return err
	}
	defer end()

	speed := []string{"speed", address, fmt.Sprint(*seconds)}
	all := []result{measure(ctx, native, exec.Command("ip", append([]string{"netns", "exec", namespace, *program}, speed...)...))}
	for _, arg := range flag.Args() {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%s: want NAME=PATH", arg)
		}
		bundle := filepath.Join(dir, name)
		if err := writeBundle(bundle, *program, speed); err != nil {
			return err
		}
		cmd := exec.Command(path, "--root", filepath.Join(dir, "state-"+name), "run", "--bundle", bundle, "network-"+name)
		all = append(all, measure(ctx, name, cmd))
	}
	table(os.Stdout, all)
	if all[0].Err != "" {
		return fmt.Errorf("natively: %s", all[0].Err)
	}
	if *out == "" {
		return nil
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(data, '\n'), 0o644)
}

// startPeer runs the peer and waits until it listens.
func startPeer(program string) (end func(), err error) {
	peer := exec.Command("ip", "netns", "exec", namespace, program, "peer")
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

// measure runs one program.
func measure(ctx context.Context, name string, cmd *exec.Cmd) result {
	fmt.Fprintf(os.Stderr, "measuring %s\n", name)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	r := result{Name: name}
	err := cmd.Start()
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		stop()
	}
	if err != nil {
		r.Err = fmt.Sprintf("%v: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	r.Figures = parse(stdout.String())
	return r
}

// writeBundle makes a bundle whose process is the program.
func writeBundle(dir, program string, args []string) error {
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/tsi"), data, 0o755); err != nil {
		return err
	}
	type object = map[string]any
	type list = []any
	data, err = json.Marshal(object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "args": append([]string{"/tsi"}, args...), "env": list{"PATH=/"}, "cwd": "/",
		},
		"root":   object{"path": "rootfs"},
		"mounts": list{object{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux": object{"namespaces": list{
			object{"type": "pid"}, object{"type": "ipc"}, object{"type": "uts"}, object{"type": "mount"},
			object{"type": "network", "path": "/run/netns/" + namespace},
		}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}
