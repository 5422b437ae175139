package spec

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestOnly are the cgroup files that limit the workload alone: the VM process
// cannot give back what its guest uses.
var guestOnly = set("memory.high")

// hostOnly are the cgroup files that mean nothing in the guest, which has no swap.
var hostOnly = set("memory.swap.max")

var unifiedControllers = set("cpu", "cpuset", "io", "memory")

// byName has r with the limits of linux.resources.unified that the size of the
// VM depends on, or that are not the same for the VM process, as the properties
// that stand for them. They take the place of these, as the specification
// demands.
func (p *planner) byName(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || len(r.Unified) == 0 {
		return r
	}
	out := *r
	out.Unified = maps.Clone(r.Unified)
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		var err error
		value := r.Unified[name]
		switch name {
		case "memory.max":
			var memory specs.LinuxMemory
			if out.Memory != nil {
				memory = *out.Memory
			}
			memory.Limit, err = parseMax(value, true)
			out.Memory = &memory
		case "pids.max":
			var pids specs.LinuxPids
			pids.Limit, err = parseMax(value, false)
			out.Pids = &pids
		case "cpu.max":
			var cpu specs.LinuxCPU
			if out.CPU != nil {
				cpu = *out.CPU
			}
			err = parseCPUMax(value, &cpu)
			out.CPU = &cpu
		default:
			continue
		}
		if err != nil {
			p.refuse("linux.resources.unified", "%s: %v", name, err)
		}
		delete(out.Unified, name)
	}
	return &out
}

// parseMax reads "max", which is -1, or a number above 0; that of bytes can have
// the suffix K, M, G or T, a power of 1024.
func parseMax(s string, bytes bool) (*int64, error) {
	s = strings.TrimSpace(s)
	n := int64(-1)
	if s == "max" {
		return &n, nil
	}
	digits, shift := s, 0
	if bytes && s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 {
			digits, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64>>shift {
		return nil, fmt.Errorf("%q is neither max nor a number above 0", s)
	}
	n <<= shift
	return &n, nil
}

// parseCPUMax reads "QUOTA [PERIOD]", in microseconds; without the period it
// stays.
func parseCPUMax(s string, cpu *specs.LinuxCPU) error {
	errForm := fmt.Errorf("%q is not a quota, or max, and a period in microseconds", s)
	fields := strings.Fields(s)
	if len(fields) != 1 && len(fields) != 2 {
		return errForm
	}
	quota, err := parseMax(fields[0], false)
	if err != nil {
		return errForm
	}
	if len(fields) == 2 {
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return errForm
		}
		cpu.Period = &n
	}
	cpu.Quota = quota
	return nil
}

// unified writes cgroup v2 files by name, as of byName, over what the properties
// have for them.
func (p *planner) unified(list map[string]string) {
	const at = "linux.resources.unified"
	for _, name := range slices.Sorted(maps.Keys(list)) {
		controller, _, ok := strings.Cut(name, ".")
		switch {
		case !ok || strings.ContainsAny(name, "/\x00"):
			p.refuse(at, "%q is not the name of a cgroup file", name)
		case !unifiedControllers[controller]:
			p.refuse(at, "%s: the controller %q is not supported", name, controller)
		case !guestOnly[name]:
			p.plan.Cgroup.Files = slices.DeleteFunc(p.plan.Cgroup.Files, func(f CgroupFile) bool { return f.Name == name })
			p.write(name, "%s", list[name])
		}
	}
}

// guestUnified are the files that mean in the guest what they mean on the host:
// its processors have other numbers, and it has no block devices.
func guestUnified(list map[string]string) map[string]string {
	var memory map[string]string
	for name, value := range list {
		if strings.HasPrefix(name, "memory.") && !hostOnly[name] {
			if memory == nil {
				memory = make(map[string]string)
			}
			memory[name] = value
		}
	}
	return memory
}
