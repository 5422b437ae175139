package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/cgroup"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/spec"
)

func updateCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "update",
		Usage:     "change the limits of a container",
		ArgsUsage: "ID",
		Description: "Limits are set on the VM process and in the guest, all of them or none. The VM keeps\n" +
			"its RAM and its vCPUs: a limit that they cannot give is refused. What is left out\n" +
			"stays. SIZE is in bytes, or with k, m, g or t (powers of 1024); -1 is no limit,\n" +
			"0 leaves it.\n\n" +
			"Example:\n" +
			"   runv update --memory 256m --cpu-quota 50000 web1",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: resourcesFlag, Aliases: []string{"r"}, Usage: "take linux.resources of the OCI specification as JSON from `FILE`, - is stdin; no other options then"},
			&cli.StringFlag{Name: "l3-cache-schema", Usage: "Intel RDT (not supported: refused)"},
			&cli.StringFlag{Name: "mem-bw-schema", Usage: "Intel RDT (not supported: refused)"},
		}, limitFlags()...),
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			change, err := changeOf(c)
			if err != nil {
				return fmt.Errorf("update: %w", err)
			}
			if err := g.update(id, change); err != nil {
				return fmt.Errorf("cannot update %s: %w", id, err)
			}
			return nil
		},
	}
}

const resourcesFlag = "resources"

// limitFlag is an option for one limit.
type limitFlag struct {
	name, usage string
	hidden      bool
	set         func(r *specs.LinuxResources, value string) error
}

// limits are the options, each for one property of linux.resources.
var limits = []limitFlag{
	{name: "blkio-weight", usage: "block I/O `WEIGHT`, 10 to 1000", set: func(r *specs.LinuxResources, s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		weight := uint16(n)
		r.BlockIO.Weight = &weight
		return err
	}},
	{name: "cpu-period", usage: "`MICROSECONDS` of the period that the quota is for; 0 is the default", set: number(func(r *specs.LinuxResources) **uint64 { return &r.CPU.Period })},
	{name: "cpu-quota", usage: "processor time in a period, in `MICROSECONDS`; -1 is no limit", set: signed(func(r *specs.LinuxResources) **int64 { return &r.CPU.Quota })},
	{name: "cpu-burst", usage: "`MICROSECONDS` that may be saved up for a burst above the quota", set: number(func(r *specs.LinuxResources) **uint64 { return &r.CPU.Burst })},
	{name: "cpu-share", usage: "processor `SHARES` against other containers, 2 to 262144", set: number(func(r *specs.LinuxResources) **uint64 { return &r.CPU.Shares })},
	{name: "cpu-rt-period", usage: "realtime period (cgroup v1: refused)", set: number(func(r *specs.LinuxResources) **uint64 { return &r.CPU.RealtimePeriod })},
	{name: "cpu-rt-runtime", usage: "realtime quota (cgroup v1: refused)", set: signed(func(r *specs.LinuxResources) **int64 { return &r.CPU.RealtimeRuntime })},
	{name: "cpuset-cpus", usage: "the host's `CPUS` to run on, such as 0-3,7", set: func(r *specs.LinuxResources, s string) error { r.CPU.Cpus = s; return nil }},
	{name: "cpuset-mems", usage: "the host's memory `NODES` to use", set: func(r *specs.LinuxResources, s string) error { r.CPU.Mems = s; return nil }},
	{name: "cpu-idle", usage: "1: run only when nothing else does; 0: do not", set: signed(func(r *specs.LinuxResources) **int64 { return &r.CPU.Idle })},
	{name: "memory", usage: "memory limit, a `SIZE`", set: size(func(r *specs.LinuxResources) **int64 { return &r.Memory.Limit })},
	{name: "memory-reservation", usage: "memory to leave to the container when others want it, a `SIZE`", set: size(func(r *specs.LinuxResources) **int64 { return &r.Memory.Reservation })},
	{name: "memory-swap", usage: "limit of memory and swap together, a `SIZE`", set: size(func(r *specs.LinuxResources) **int64 { return &r.Memory.Swap })},
	//lint:ignore SA1019 deprecated, and reported as in a config.json
	{name: "kernel-memory", hidden: true, usage: "obsolete", set: size(func(r *specs.LinuxResources) **int64 { return &r.Memory.Kernel })},
	{name: "kernel-memory-tcp", hidden: true, usage: "obsolete", set: size(func(r *specs.LinuxResources) **int64 { return &r.Memory.KernelTCP })},
	{name: "pids-limit", usage: "processes and threads, a `NUMBER`; 0 or -1 is no limit", set: signed(func(r *specs.LinuxResources) **int64 { return &r.Pids.Limit })},
}

func limitFlags() []cli.Flag {
	var list []cli.Flag
	for _, l := range limits {
		list = append(list, &cli.StringFlag{Name: l.name, Usage: l.usage, Hidden: l.hidden})
	}
	return list
}

func number(field func(*specs.LinuxResources) **uint64) func(*specs.LinuxResources, string) error {
	return func(r *specs.LinuxResources, s string) error {
		n, err := strconv.ParseUint(s, 10, 64)
		*field(r) = &n
		return err
	}
}

func signed(field func(*specs.LinuxResources) **int64) func(*specs.LinuxResources, string) error {
	return func(r *specs.LinuxResources, s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		*field(r) = &n
		return err
	}
}

func size(field func(*specs.LinuxResources) **int64) func(*specs.LinuxResources, string) error {
	return func(r *specs.LinuxResources, s string) error {
		n, err := parseBytes(s)
		*field(r) = &n
		return err
	}
}

// parseBytes reads a size as other runtimes do: bytes or with a unit, which is a
// power of 1024 whether it is written k, kb or KiB; -1 is no limit.
func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	digits := strings.TrimRight(s, "bBiIkKmMgGtTpP ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	shift, ok := map[string]int{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}[unit]
	if !ok || strings.Trim(digits, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, err
	}
	if n *= float64(int64(1) << shift); n >= math.MaxInt64 {
		return 0, strconv.ErrRange
	}
	return int64(n), nil
}

// changeOf is what the options ask for.
func changeOf(c *cli.Context) (*specs.LinuxResources, error) {
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if c.IsSet(name) {
			return nil, fmt.Errorf("--%s: Intel RDT is not supported", name)
		}
	}
	r := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}, Pids: &specs.LinuxPids{}, BlockIO: &specs.LinuxBlockIO{},
	}
	given := false
	for _, l := range limits {
		if !c.IsSet(l.name) {
			continue
		}
		if c.IsSet(resourcesFlag) {
			return nil, fmt.Errorf("--%s and --%s exclude each other", resourcesFlag, l.name)
		}
		given = true
		if err := l.set(r, c.String(l.name)); err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return nil, fmt.Errorf("--%s %q: out of range", l.name, c.String(l.name))
			}
			return nil, fmt.Errorf("--%s %q: not a value for it: see `runv update --help`", l.name, c.String(l.name))
		}
	}
	if !c.IsSet(resourcesFlag) {
		if !given {
			return nil, errors.New("no limit is given: see `runv update --help`")
		}
		return r, nil
	}
	in := os.Stdin
	if name := c.String(resourcesFlag); name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", resourcesFlag, err)
		}
		defer f.Close()
		in = f
	}
	r, err := readResources(in)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w", resourcesFlag, c.String(resourcesFlag), err)
	}
	return r, nil
}

// maxResources bounds the JSON of a change, in bytes.
const maxResources = 4 << 20

// readResources reads linux.resources.
func readResources(r io.Reader) (*specs.LinuxResources, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxResources+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxResources {
		return nil, fmt.Errorf("more than %d bytes", maxResources)
	}
	var resources *specs.LinuxResources
	if err := json.Unmarshal(data, &resources); err != nil {
		return nil, fmt.Errorf("not linux.resources as JSON: %w", err)
	}
	if resources == nil {
		return nil, errors.New("not linux.resources as JSON: null")
	}
	return resources, nil
}

func (g *globals) update(id string, change *specs.LinuxResources) error {
	host, err := g.hostFacts()
	if err != nil {
		return err
	}
	c, err := g.openIf(id, checkUpdatable)
	if err != nil {
		return err
	}
	defer c.Unlock()
	s := &c.State
	hostMemory, _ := cgroup.Value(s.Cgroup, "memory.max")
	u, err := spec.NewUpdate(spec.Running{Machine: s.Machine, Limits: s.Limits, HostMemory: hostMemory}, change, host)
	if err != nil {
		return err
	}
	for _, warning := range u.Warnings {
		g.log.Warn(warning)
	}
	if u.Guest != nil && s.Now() == container.StatePaused {
		return errPaused
	}
	if u.CheckMemory > 0 {
		if err := g.checkMemory(s, u.CheckMemory); err != nil {
			return err
		}
	}
	undo, err := sandbox.SetLimits(s.Cgroup, s.Unit, u.Cgroup)
	if err != nil {
		return err
	}
	if err := g.updateGuest(s, u.Guest); err != nil {
		// The guest may have set the first of several.
		return errors.Join(err, undo(), ignoreEnd(g.updateGuest(s, u.Undo)))
	}
	s.Limits = u.Limits
	return c.Save()
}

// checkUpdatable accepts a container that runs, or is paused or created.
func checkUpdatable(s *container.State) error {
	if err := checkActive(s); !errors.Is(err, errPaused) {
		return err
	}
	return nil
}

// checkMemory returns an error if the workload uses more than limit.
func (g *globals) checkMemory(s *container.State, limit uint64) error {
	return g.ask(s.ID, s, func(ctx context.Context, agent *client.Client) error {
		stats, err := agent.Stats(ctx, s.ID)
		if err == nil && stats.Memory.Current > limit {
			err = fmt.Errorf("linux.resources.memory.limit: %d bytes are less than the %d in use", limit, stats.Memory.Current)
		}
		return err
	})
}

// updateGuest sets limits in the guest, nil for none.
func (g *globals) updateGuest(s *container.State, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return g.ask(s.ID, s, func(ctx context.Context, agent *client.Client) error {
		return agent.Update(ctx, s.ID, data)
	})
}

// ignoreEnd passes over that the container has ended.
func ignoreEnd(err error) error {
	if errors.Is(err, errNotRunning) {
		return nil
	}
	return err
}
