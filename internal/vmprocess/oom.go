package vmprocess

import (
	"golang.org/x/sys/unix"
)

// outOfMemory ends this process the way the container's first process ended: by
// the OOM killer. Engines learn of that from the host's cgroup, which knows
// nothing of what the guest's kernel does. It takes memory until the cgroup's
// limit is reached; of the guest's RAM next to nothing can be untouched now. It
// returns if nothing limits this process.
func (c *container) outOfMemory() {
	const step = 16 << 20
	limited := false
	for _, file := range c.boot.Plan.Cgroup.Files {
		limited = limited || file.Name == "memory.max"
	}
	adj := c.boot.Plan.Spec.Process.OOMScoreAdj
	if !limited || adj != nil && *adj <= oomScoreAdjMin {
		return
	}
	most := 2 * c.boot.Plan.Machine.MemoryBytes
	for taken := uint64(0); taken < most; taken += step {
		_, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			c.log.Debug("take memory", "err", err)
			return
		}
	}
}

// oomScoreAdjMin is OOM_SCORE_ADJ_MIN: the OOM killer spares such a process.
const oomScoreAdjMin = -1000
