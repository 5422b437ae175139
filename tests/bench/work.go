package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// workMemory is what a compiler that runs four times needs, in MiB.
	workMemory = 1024
	// httpPort is where the server listens, in the namespace.
	httpPort = "8000"
	// again is the time between two tries to reach it.
	again = 5 * time.Millisecond
)

// workNames are what can be measured: a web server, and what the program in
// tests/bench/workload does.
var workNames = []string{webServer, "cpu", "spawn", "walk", "read", "random", "untar", "make"}

const webServer = "http"

// work measures programs inside containers, whose root file system is a Debian,
// shared and in the host's memory, and a server that answers.
func work(ctx context.Context, b *bench) (err error) {
	if b.root == "" || b.workload == "" {
		return errors.New("work: want --root and --workload")
	}
	remove, err := makeNetns(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	dir := filepath.Join(b.dir, "work")
	if err := b.makeWork(ctx, filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	workConfig := func(args ...string) object {
		c := config(args...)
		c["linux"] = object{
			"resources":  resources(workMemory, min(2, goruntime.NumCPU())),
			"namespaces": append(namespaces("pid", "ipc", "uts", "mount"), inNetns),
		}
		return c
	}
	inside := slices.DeleteFunc(slices.Clone(b.work), func(name string) bool { return name == webServer })
	if err := writeConfig(dir, workConfig(append([]string{"/bench/workload", "/bench"}, inside...)...)); err != nil {
		return err
	}
	server := filepath.Join(b.dir, "server")
	if err := os.Mkdir(server, 0o755); err != nil {
		return err
	}
	c := workConfig("python3", "-m", "http.server", "--bind", address, "--directory", "/bench/src", httpPort)
	c["root"] = object{"path": filepath.Join(dir, "rootfs")}
	if err := writeConfig(server, c); err != nil {
		return err
	}
	b.buildTemplates(ctx, dir)
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		if slices.Contains(b.work, webServer) {
			took, err := r.firstResponse(ctx, server)
			if err != nil {
				return err
			}
			b.add("Python server, start to first response", "ms", r.name, ms(took))
		}
		if len(inside) == 0 {
			return nil
		}
		done, err := r.command(ctx, "run", "--bundle", dir, "work")
		for _, f := range parseFigures(done.stdout) { // as far as it got
			b.add(f.name, f.unit, r.name, f.value)
		}
		if err != nil {
			return errors.Join(err, tidy(filepath.Join(dir, "rootfs/bench")))
		}
		return nil
	})
}

// makeWork makes the root file system and what the work is on.
func (b *bench) makeWork(ctx context.Context, rootfs string) error {
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "work: unpacking the root file system")
	if err := output(ctx, "tar", "--numeric-owner", "-C", rootfs, "-xf", b.root); err != nil {
		return err
	}
	dir := filepath.Join(rootfs, "bench")
	if err := os.MkdirAll(filepath.Join(dir, "src"), 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(dir, "workload"), b.workload, 0o755); err != nil {
		return err
	}
	// Many small files.
	if err := output(ctx, "cp", "-a", filepath.Join(rootfs, "usr/include/linux"), filepath.Join(dir, "tree")); err != nil {
		return err
	}
	if err := output(ctx, "tar", "-C", dir, "-cf", filepath.Join(dir, "tree.tar"), "tree"); err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{})
	for _, name := range []string{"read", "random"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, noise, int64(b.size)*mib)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return writeProgram(filepath.Join(dir, "src"))
}

// tidy removes what work that did not end has left, for the next that does it.
func tidy(dir string) error {
	made, err := filepath.Glob(filepath.Join(dir, "src/*.o"))
	errs := []error{err}
	for _, path := range append(made, filepath.Join(dir, "src/program"), filepath.Join(dir, "unpacked")) {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// firstResponse starts a container with a server and says how long it takes
// until that has answered.
func (r *runtime) firstResponse(ctx context.Context, bundle string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := make(chan error, 1)
	begun := time.Now()
	go func() {
		_, err := r.command(ctx, "run", "--bundle", bundle, "server")
		ended <- err
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialNetns}, Timeout: time.Minute}
	for took == 0 {
		if response, err := client.Get("http://" + net.JoinHostPort(address, httpPort) + "/Makefile"); err == nil {
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err == nil && string(body) == makefile {
				took = time.Since(begun)
				break
			}
			cancel()
			<-ended
			return 0, errors.Join(fmt.Errorf("the server answers %s with %d bytes: %w", response.Status, len(body), err), r.remove(ctx, "server"))
		}
		select {
		case err := <-ended:
			return 0, fmt.Errorf("the server ended: %w", err)
		case <-ctx.Done():
			<-ended
			return 0, errors.Join(errors.New("the server does not answer"), r.remove(ctx, "server"))
		case <-time.After(again):
		}
	}
	if _, err := r.command(ctx, "kill", "server", "KILL"); err != nil {
		return 0, errors.Join(err, r.remove(ctx, "server"))
	}
	<-ended                     // its status is that of the kill
	_ = r.remove(ctx, "server") // `run` has removed it with most
	return took, nil
}

// figure is what a program inside a container has measured.
type figure struct {
	name  string
	value float64
	unit  string
}

// parseFigures reads a program's output: a name, a number and a unit a line,
// between tabs. Other lines are none of it.
func parseFigures(out string) []figure {
	var list []figure
	for line := range strings.Lines(out) {
		parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(parts) != 3 {
			continue
		}
		if value, err := strconv.ParseFloat(parts[1], 64); err == nil {
			list = append(list, figure{parts[0], value, parts[2]})
		}
	}
	return list
}

// output runs a tool of the host.
func output(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
