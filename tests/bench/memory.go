package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spare is what a host keeps while containers are added to it.
	spare = 256 * mib
	// settling bounds the wait for idle containers to give memory back: a guest
	// reports free memory for half a minute.
	settling = 2 * time.Minute
	// pause is between two looks.
	pause = 5 * time.Second
)

// memory measures what idle containers cost: all memory of all their processes,
// shared pages in proportion (PSS), and what the host has less.
func memory(ctx context.Context, b *bench) error {
	bundle, err := b.bundle("long", "/bin/sleep", "100000")
	if err != nil {
		return err
	}
	b.buildTemplates(ctx, bundle)
	var idlers []idler
	for _, r := range b.runtimes {
		if !b.failed(r.name) {
			idlers = append(idlers, &idleContainers{r, bundle})
		}
	}
	if b.kernel != "" {
		idlers = append(idlers, &idleMachines{qemu: qemu{kernel: b.kernel, initrd: b.initrd, memory: 256}})
	}
	// An average over many containers does not need many rounds.
	for _, one := range idlers {
		err := b.idling(ctx, one)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.fail(one.String(), err)
		}
	}
	return nil
}

// idler starts what then idles; i counts what it started before.
type idler interface {
	fmt.Stringer
	start(ctx context.Context, i int) error
	stop(ctx context.Context, count int) error
}

// idleContainers are those of a runtime.
type idleContainers struct {
	*runtime
	bundle string
}

func (c *idleContainers) String() string { return c.name }

func (c *idleContainers) start(ctx context.Context, i int) error {
	id := fmt.Sprintf("idle-%03d", i)
	if _, err := c.command(ctx, "create", "--bundle", c.bundle, id); err != nil {
		return err
	}
	_, err := c.command(ctx, "start", id)
	return err
}

func (c *idleContainers) stop(ctx context.Context, count int) error {
	return atOnce(count, goruntime.NumCPU(), func(i int) error { return c.remove(ctx, fmt.Sprintf("idle-%03d", i)) })
}

// idling measures one program with each of the counts.
func (b *bench) idling(ctx context.Context, one idler) (err error) {
	// What ran before may still be giving memory back.
	before, err := settled(ctx, nil)
	if err != nil {
		return err
	}
	started, each := 0, 0.0
	defer func() { err = errors.Join(err, one.stop(ctx, started)) }()
	for _, count := range b.idle {
		now, err := lookAtMemory(before.processes)
		if err != nil {
			return err
		}
		if need := float64(count-started)*each + spare; need > now.available {
			b.Fail(b.part, one.String(), fmt.Sprintf("%d would need %.0f MiB more: this host has %.0f", count, need/mib, now.available/mib))
			return nil
		}
		fmt.Fprintf(os.Stderr, "memory: %v, %d idle\n", one, count)
		first := started
		started = count
		if err := atOnce(count-first, goruntime.NumCPU(), func(i int) error { return one.start(ctx, first+i) }); err != nil {
			return err
		}
		if now, err = settled(ctx, before.processes); err != nil {
			return err
		}
		each = (before.available - now.available) / float64(count)
		b.add(fmt.Sprintf("PSS of each of %d idle", count), "MiB", one.String(), now.pss/float64(count)/mib)
		b.add(fmt.Sprintf("memory of the host for each of %d idle", count), "MiB", one.String(), each/mib)
	}
	return nil
}

// memoryLook is what a look at the host's memory shows.
type memoryLook struct {
	available float64 // bytes
	pss       float64 // bytes, of the processes that are new
	processes map[int]bool
}

// lookAtMemory looks at the host, and at all processes but the old ones: so none
// that belongs to a container is missed, whatever its cgroup and parent are.
func lookAtMemory(old map[int]bool) (memoryLook, error) {
	look := memoryLook{processes: make(map[int]bool)}
	info, err := readMeminfo()
	if err != nil {
		return look, err
	}
	look.available = float64(info["MemAvailable"])
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return look, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		look.processes[pid] = true
		if old == nil || old[pid] {
			continue
		}
		// A thread of the kernel has none, and a process that ended neither.
		text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
		if err != nil {
			continue
		}
		look.pss += float64(parseKiB(string(text))["Pss"])
	}
	return look, nil
}

// settled waits until the memory does not change any more, or for so long that
// it may be said to be what they need.
func settled(ctx context.Context, old map[int]bool) (memoryLook, error) {
	last := memoryLook{}
	still := 0
	for begun := time.Now(); ; {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(pause):
		}
		// What only waits to be freed is nobody's need.
		unix.Sync()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return last, err
		}
		now, err := lookAtMemory(old)
		if err != nil {
			return now, err
		}
		if still++; !near(now.pss, last.pss) || !near(now.available, last.available) {
			still = 0
		}
		if last = now; still >= 3 || time.Since(begun) > settling {
			return now, nil
		}
	}
}

func near(a, b float64) bool { return a <= b*1.005 && b <= a*1.005 }

func readMeminfo() (map[string]uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	return parseKiB(string(text)), nil
}

// parseKiB reads lines as those of /proc/meminfo; values are in bytes.
func parseKiB(text string) map[string]uint64 {
	values := make(map[string]uint64)
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		number, isKiB := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		if n, err := strconv.ParseUint(number, 10, 54); isKiB && err == nil {
			values[name] = n << 10
		}
	}
	return values
}
