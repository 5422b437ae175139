package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"runv.dev/runv/tests/host/wire"
)

const defaultMemoryMiB = 6144

// options describe a host.
type options struct {
	memoryMiB int
	cpus      int
	shares    []string // absolute paths, writable and live
	limit     time.Duration
}

func (o *options) register(fs *flag.FlagSet) {
	fs.IntVar(&o.memoryMiB, "m", defaultMemory(), "")
	fs.IntVar(&o.cpus, "p", 2, "")
	fs.Func("w", "", func(dir string) error {
		dir, err := shareable(dir)
		if err == nil {
			o.shares = append(o.shares, dir)
		}
		return err
	})
	registerLimit(fs, &o.limit)
}

func registerLimit(fs *flag.FlagSet, limit *time.Duration) {
	fs.Func("t", "", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n <= 0 {
			return errors.New("not a positive number of seconds")
		}
		*limit = time.Duration(n) * time.Second
		return nil
	})
}

func shareable(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", fmt.Errorf("%s is not a directory", dir)
	}
	if dir == "/" {
		return "", errors.New("the root directory cannot be shared writable")
	}
	return dir, nil
}

func (o *options) check() error {
	if o.memoryMiB < 512 {
		return failf(exitUsage, "-m %d: a host needs at least 512 MiB", o.memoryMiB)
	}
	if o.cpus < 1 || o.cpus > 254 {
		return failf(exitUsage, "-p %d: want 1 to 254 processors", o.cpus)
	}
	return nil
}

func parse(fs *flag.FlagSet, args []string) error {
	fs.SetOutput(io.Discard)
	if err := fs.Parse(args); err != nil {
		return failf(exitUsage, "%w\n%s", err, usage)
	}
	return nil
}

// defaultMemory leaves the machine a quarter of what it has.
func defaultMemory() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return defaultMemoryMiB
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(v, "kB")))
			if err == nil {
				return max(512, min(defaultMemoryMiB, kib/1024*3/4))
			}
		}
	}
	return defaultMemoryMiB
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return failf(exitUsage, "%q is not a usable host name: want letters, digits, dot, dash, underscore", name)
	}
	return nil
}

// newCommand describes args as they would run here and now.
func newCommand(args []string, kind string) (wire.Command, error) {
	dir, err := os.Getwd()
	if err != nil {
		return wire.Command{}, err
	}
	c := wire.Command{Args: args, Dir: dir, Env: []string{"RUNV_IN_TEST_HOST=" + kind}}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if passed(name) {
			c.Env = append(c.Env, kv)
		}
	}
	return c, nil
}

// passed reports whether a variable means the same inside a host. Those that
// name sockets, terminals or sessions of this machine do not.
func passed(name string) bool {
	switch name {
	case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TZ", "CI", "PWD",
		"CC", "AR", "LD", "KERNEL_SRC", "MAKEFLAGS", "XDG_CACHE_HOME", "DEBIAN_FRONTEND",
		"http_proxy", "https_proxy", "no_proxy":
		return true
	case "RUNV_IN_TEST_HOST":
		return false
	}
	for _, prefix := range []string{"GO", "CGO_", "LC_", "RUNV_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
