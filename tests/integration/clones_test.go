//go:build integration

package integration

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostFigures are what a host's kernel counts, and may not grow.
type hostFigures struct {
	used  uint64 // bytes of memory that cannot be had
	files uint64 // open files
}

func figures(t *testing.T) hostFigures {
	t.Helper()
	unix.Sync()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	var total, available uint64
	data, err := os.ReadFile("/proc/meminfo")
	must(t, err)
	for line := range strings.Lines(string(data)) {
		fmt.Sscanf(line, "MemTotal: %d kB", &total)
		fmt.Sscanf(line, "MemAvailable: %d kB", &available)
	}
	var f hostFigures
	data, err = os.ReadFile("/proc/sys/fs/file-nr")
	must(t, err)
	_, err = fmt.Sscan(string(data), &f.files)
	must(t, err)
	f.used = (total - available) << 10
	return f
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// TestManyClones starts RUNV_TEST_CLONES clones of one template, at once as many
// as RUNV_TEST_CLONES_TOGETHER says: each does its work, and none leaves anything
// behind, not even in the kernel.
func TestManyClones(t *testing.T) {
	// A host that is emulated, on a busy machine, does not start 20 in two minutes.
	together := setting(t, "RUNV_TEST_CLONES_TOGETHER", min(20, 3*runtime.NumCPU()))
	count := setting(t, "RUNV_TEST_CLONES", 40)
	noLeaks(t)
	dir := templates(t)
	buildTemplate(t, dir)
	work := bundle(t, []string{"sh", "-c", "read line; echo $line; sha256sum /bin/busybox | tr -d -c 0-9a-f; exit 7"})
	var sum string
	var mu sync.Mutex
	clones := func(first, n int) {
		next := make(chan int)
		var wg sync.WaitGroup
		for range together {
			wg.Go(func() {
				for i := range next {
					id, line := newID(), fmt.Sprintf("clone %d", i)
					r := runv(t, strings.NewReader(line+"\n"), "--templates", dir, "run", "-b", work, id)
					answer, hash, _ := strings.Cut(r.stdout, "\n")
					mu.Lock()
					if sum == "" {
						sum = hash
					}
					if r.status != 7 || answer != line || hash != sum || len(hash) < 64 || r.stderr != "" {
						t.Errorf("%s: status %d, %q, %q", line, r.status, r.stdout, r.stderr)
					}
					mu.Unlock()
				}
			})
		}
		for i := range n {
			next <- first + i
		}
		close(next)
		wg.Wait()
	}
	// The kernel's caches have their size after these.
	clones(0, together)
	before := figures(t)
	begun := time.Now()
	clones(together, count)
	var after hostFigures
	// What the kernel frees later, after a grace period, may take a moment.
	most := hostFigures{used: before.used + 32*mib + uint64(count)*16<<10, files: before.files + 200}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		if after = figures(t); after.used <= most.used && after.files <= most.files || time.Now().After(deadline) {
			break
		}
	}
	t.Logf("%d clones in %v; memory %d MiB, then %d; files %d, then %d", count, time.Since(begun).Round(time.Second),
		before.used/mib, after.used/mib, before.files, after.files)
	if after.used > most.used {
		t.Errorf("%d MiB in use after %d clones, %d before", after.used/mib, count, before.used/mib)
	}
	if after.files > most.files {
		t.Errorf("%d open files after %d clones, %d before", after.files, count, before.files)
	}
}
