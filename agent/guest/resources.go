package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/guest/initproc"
)

// A setting is one write to a file of a cgroup.
type setting struct {
	file, value string
	// A setting that only restates the default may fail for want of its
	// controller.
	isDefault bool
}

// settings translates limits to cgroup v2. What counts in the host's cgroup
// only (block devices, network classes, RDMA) is refused or, as
// the host applies it to the VM's process, not the guest's business: see the
// cases.
func settings(r *specs.LinuxResources) ([]setting, error) {
	var list []setting
	if r == nil {
		return nil, nil
	}
	if r.CPU != nil {
		cpu, err := cpuSettings(r.CPU)
		if err != nil {
			return nil, err
		}
		list = append(list, cpu...)
	}
	if r.Memory != nil {
		memory, err := memorySettings(r.Memory)
		if err != nil {
			return nil, err
		}
		list = append(list, memory...)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		list = append(list, limitSetting("pids.max", *r.Pids.Limit, *r.Pids.Limit > 0))
	}
	// Of the rest, the host applies to the process of the VM: blockIO,
	// network, rdma. hugepageLimits have no huge pages to limit. Access to
	// devices is not a file's: see devicefilter.
	for file, value := range r.Unified {
		if filepath.Base(file) != file || file == "." || file == ".." {
			return nil, initproc.Invalid("linux.resources.unified: invalid name %q", file)
		}
		list = append(list, setting{file: file, value: value})
	}
	return list, nil
}

func limitSetting(file string, value int64, limited bool) setting {
	if !limited {
		return setting{file: file, value: "max", isDefault: true}
	}
	return setting{file: file, value: strconv.FormatInt(value, 10)}
}

func memorySettings(m *specs.LinuxMemory) ([]setting, error) {
	var list []setting
	if m.Swap != nil && m.Limit != nil && *m.Swap > 0 && *m.Limit > 0 {
		// OCI counts memory and swap together, cgroup v2 apart.
		if *m.Swap < *m.Limit {
			return nil, initproc.Invalid("linux.resources.memory: swap %d is below limit %d", *m.Swap, *m.Limit)
		}
		// The guest has no swap, so that its kernel may do without the file.
		list = append(list, setting{file: "memory.swap.max", value: strconv.FormatInt(*m.Swap-*m.Limit, 10), isDefault: true})
	} else if m.Swap != nil && *m.Swap < 0 {
		list = append(list, limitSetting("memory.swap.max", 0, false))
	}
	if m.Limit != nil && *m.Limit != 0 {
		list = append(list, limitSetting("memory.max", *m.Limit, *m.Limit > 0))
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		low := max(*m.Reservation, 0) // less than nothing is no protection
		list = append(list, setting{file: "memory.low", value: strconv.FormatInt(low, 10), isDefault: low == 0})
	}
	return list, nil
}

func cpuSettings(c *specs.LinuxCPU) ([]setting, error) {
	var list []setting
	// The weight of an idle group cannot be set, and an idle group that was one
	// gets its weight back.
	idle := c.Idle != nil && *c.Idle == 1
	if c.Idle != nil {
		list = append(list, setting{file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10), isDefault: *c.Idle == 0})
	}
	if c.Shares != nil && *c.Shares != 0 && !idle {
		list = append(list, setting{file: "cpu.weight", value: strconv.FormatUint(cpuWeight(*c.Shares), 10)})
	}
	if c.Burst != nil && *c.Burst > 0 {
		// The kernel checks the quota against the burst there is.
		list = append(list, setting{file: "cpu.max.burst", value: "0", isDefault: true})
	}
	if c.Quota != nil || c.Period != nil {
		period := uint64(100000)
		if c.Period != nil && *c.Period != 0 {
			period = *c.Period
		}
		quota := "max"
		if c.Quota != nil && *c.Quota > 0 {
			quota = strconv.FormatInt(*c.Quota, 10)
		}
		list = append(list, setting{
			file:      "cpu.max",
			value:     fmt.Sprintf("%s %d", quota, period),
			isDefault: quota == "max",
		})
	}
	if c.Burst != nil {
		list = append(list, setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10), isDefault: *c.Burst == 0})
	}
	// cpus and mems are numbers of the host's; the guest has as many vCPUs
	// as they allow.
	return list, nil
}

// cpuWeight maps the shares of cgroup v1 (2 to 262144, default 1024) to the
// weight of v2 (1 to 10000, default 100) with a curve through all three.
func cpuWeight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	l := math.Log2(float64(shares))
	exponent := (l*l+125*l)/612 - 7.0/34
	return min(uint64(math.Ceil(math.Pow(10, exponent))), 10000)
}

// apply sets limits.
func (c *cgroup) apply(r *specs.LinuxResources) error {
	list, err := settings(r)
	if err != nil {
		return err
	}
	for _, s := range list {
		err := c.write(s.file, s.value)
		if s.isDefault && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return initproc.Unsupported("linux.resources: the guest's kernel has no %s", s.file)
		}
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		if err != nil {
			return fmt.Errorf("set %s to %q: %w", s.file, s.value, err)
		}
	}
	return nil
}
