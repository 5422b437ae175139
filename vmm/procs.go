package vmm

import (
	"os"
	"runtime"
	"sync"
)

// A thread inside KVM_RUN keeps its share of GOMAXPROCS until the runtime's
// monitor takes it away, up to 10 ms later. With as many vCPUs as the host has
// CPUs, no goroutine of a device could run for so long. So every vCPU brings a
// share of its own.
var procs struct {
	mu    sync.Mutex
	extra int
}

// addProcs raises GOMAXPROCS by n, or lowers it.
func addProcs(n int) {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	procs.extra += n
	if procs.extra == 0 && os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS() // follows the cgroup's limits again
		return
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}
