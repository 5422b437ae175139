//go:build integration

package integration

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

const mib = 1 << 20

// resident is what a process has in memory, in bytes.
func resident(t *testing.T, pid int) uint64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// TestMemoryReturns: what a container has used and freed goes back to the host,
// and can be used again, in a VM that booted as in a clone.
func TestMemoryReturns(t *testing.T) {
	const ram, used = 768 * mib, 512 * mib
	noLeaks(t)
	dir := templates(t)
	r := runv(t, nil, "--templates", dir, "template", "build", "--memory", strconv.Itoa(ram), "--vcpus", "1")
	r.expect(t, "*", "", 0)
	fill := bundle(t, []string{"sh", "-c", "echo up; while read line; do " +
		fmt.Sprintf("dd if=/dev/zero of=/tmp/f bs=1M count=%d 2>/dev/null; echo full; read line; rm /tmp/f; echo empty; done", used/mib)},
		func(s *specs.Spec) {
			s.Annotations[spec.AnnotationMemory] = strconv.Itoa(ram)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=600m"}})
		})
	for _, c := range []struct{ name, templates string }{{"clone", dir}, {"booted", "off"}} {
		t.Run(c.name, func(t *testing.T) {
			id := newID()
			container := inBackground(t, "--templates", c.templates, "run", "-b", fill, id)
			container.out.wait(t, "up")
			pid := stateOf(t, id).Pid
			before := resident(t, pid)
			for round := range 2 {
				fmt.Fprintln(container.in)
				container.out.wait(t, "full")
				full := resident(t, pid)
				if full < used {
					t.Errorf("round %d: %d MiB in memory while %d MiB are used", round, full/mib, used/mib)
				}
				fmt.Fprintln(container.in)
				container.out.wait(t, "empty")
				freed := time.Now()
				// What Linux leaves is in blocks of which a part is in use.
				for most := before + 64*mib; resident(t, pid) > most; time.Sleep(100 * time.Millisecond) {
					if time.Since(freed) > limit {
						t.Fatalf("round %d: %d MiB in memory, %d before", round, resident(t, pid)/mib, before/mib)
					}
				}
				t.Logf("round %d: %d MiB, %d when full, %d again after %v", round,
					before/mib, full/mib, resident(t, pid)/mib, time.Since(freed).Round(100*time.Millisecond))
			}
			must(t, container.in.Close())
			if status := container.end(t); status != 0 && status != 1 { // read's, at the end
				t.Errorf("status %d", status)
			}
		})
	}
}
