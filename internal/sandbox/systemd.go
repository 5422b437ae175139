package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"runv.dev/runv/internal/spec"
)

// systemdTimeout bounds a request to systemd, its job included.
const systemdTimeout = 30 * time.Second

// connectSystemd connects to the service manager of the system: directly, else
// over the bus.
func connectSystemd(ctx context.Context) (*systemd.Conn, error) {
	conn, err := systemd.NewSystemdConnectionContext(ctx)
	if err != nil {
		conn, err = systemd.NewSystemConnectionContext(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("systemd cannot be reached: %w: leave out --systemd-cgroup (podman: --cgroup-manager cgroupfs) on a system without it", err)
	}
	return conn, nil
}

// askSystemd connects for one request.
func askSystemd(request func(context.Context, *systemd.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	conn, err := connectSystemd(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return request(ctx, conn)
}

// UnitName is the name of the scope for a plan's cgroup; empty if the systemd
// driver is not used.
func UnitName(c spec.Cgroup, id string) string {
	switch {
	case !c.Systemd:
		return ""
	case c.Unit == "":
		return "runv-" + id + ".scope"
	}
	return c.Unit
}

// StartScope has systemd move the process pid, which must not have children, to
// a new scope, and sets the limits as CreateCgroup does. path is CgroupPath's.
// With an error, made tells whether there may be a scope to stop: one that was
// there before is not ours.
func StartScope(c spec.Cgroup, unit, path string, pid int) (made bool, err error) {
	limits, _ := bandwidthApart(c.Files)
	properties := append(scopeProperties(limits),
		systemd.PropDescription("runv container "+unit),
		systemd.PropSlice(c.Slice),
		systemd.PropPids(uint32(pid)),
		property("Delegate", true),
		property("DefaultDependencies", false),
		property("CPUAccounting", true),
		property("IOAccounting", true),
		property("MemoryAccounting", true),
		property("TasksAccounting", true),
		property("CollectMode", "inactive-or-failed"),
	)
	err = askSystemd(func(ctx context.Context, conn *systemd.Conn) error {
		done := make(chan string, 1)
		if _, err := conn.StartTransientUnitContext(ctx, unit, "replace", properties, done); err != nil {
			made = ctx.Err() != nil // a timeout does not tell
			return fmt.Errorf("systemd: start %s: %w", unit, err)
		}
		made = true
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("systemd: start %s: the job ended as %q", unit, result)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("systemd: start %s: %w", unit, ctx.Err())
		}
	})
	if err != nil {
		return made, err
	}
	// What systemd has no property for, and in case it rounds.
	return true, writeFiles(path, limits)
}

// changeScope tells systemd the new limits of a scope, so that it does not bring
// the old ones back.
func changeScope(unit string, files []spec.CgroupFile) error {
	properties := scopeProperties(files)
	if unit == "" || len(properties) == 0 {
		return nil
	}
	return askSystemd(func(ctx context.Context, conn *systemd.Conn) error {
		const runtime = true // until the unit is gone
		if err := conn.SetUnitPropertiesContext(ctx, unit, runtime, properties...); err != nil {
			return fmt.Errorf("systemd: change %s: %w", unit, err)
		}
		return nil
	})
}

// StopScope stops a scope and forgets it; it may be gone already.
func StopScope(unit string) error {
	if unit == "" {
		return nil
	}
	return askSystemd(func(ctx context.Context, conn *systemd.Conn) error {
		done := make(chan string, 1)
		if _, err := conn.StopUnitContext(ctx, unit, "replace", done); noSuchUnit(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("systemd: stop %s: %w", unit, err)
		}
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("systemd: stop %s: %w", unit, ctx.Err())
		}
		if err := conn.ResetFailedUnitContext(ctx, unit); err != nil && !noSuchUnit(err) {
			return fmt.Errorf("systemd: reset %s: %w", unit, err)
		}
		return nil
	})
}

func noSuchUnit(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// scopeProperties are the properties that stand for control files, so that
// systemd does not set them back. It has none for some of the files.
func scopeProperties(files []spec.CgroupFile) []systemd.Property {
	var list []systemd.Property
	for _, file := range files {
		if name, ok := numberProperties[file.Name]; ok {
			if n, err := strconv.ParseUint(file.Value, 10, 64); err == nil {
				list = append(list, property(name, n))
			} else if file.Value == "max" {
				list = append(list, property(name, unlimited))
			}
			continue
		}
		switch file.Name {
		case "cpu.max":
			quota, period, _ := strings.Cut(file.Value, " ")
			list = append(list, quotaProperties(quota, period)...)
		case "cpuset.cpus":
			list = append(list, property("AllowedCPUs", bitmask(file.Value)))
		case "cpuset.mems":
			list = append(list, property("AllowedMemoryNodes", bitmask(file.Value)))
		}
	}
	return list
}

// unlimited is systemd's number for no limit.
const unlimited = uint64(math.MaxUint64)

// numberProperties have the value of their file as a number.
var numberProperties = map[string]string{
	"memory.max":      "MemoryMax",
	"memory.low":      "MemoryLow",
	"memory.swap.max": "MemorySwapMax",
	"pids.max":        "TasksMax",
	"cpu.weight":      "CPUWeight",
	"io.weight":       "IOWeight",
}

// quotaProperties are for cpu.max: microseconds for each second, which systemd
// rounds up to 10 ms.
func quotaProperties(quota, period string) []systemd.Property {
	q, err1 := strconv.ParseUint(quota, 10, 63)
	p, err2 := strconv.ParseUint(period, 10, 63)
	if quota == "max" && err2 == nil {
		return []systemd.Property{property("CPUQuotaPerSecUSec", unlimited), property("CPUQuotaPeriodUSec", p)}
	}
	if err1 != nil || err2 != nil || p == 0 {
		return nil
	}
	const second, step = 1_000_000, 10_000
	perSecond := new(big.Int).Mul(new(big.Int).SetUint64(q), big.NewInt(second))
	perSecond.Div(perSecond, new(big.Int).SetUint64(p))
	if !perSecond.IsInt64() {
		return nil
	}
	us := (uint64(perSecond.Int64()) + step - 1) / step * step
	return []systemd.Property{property("CPUQuotaPerSecUSec", us), property("CPUQuotaPeriodUSec", p)}
}

// bitmask turns a valid list such as 0-3,7 into systemd's form: a bit each,
// the least significant byte first.
func bitmask(list string) []byte {
	set, _ := spec.ParseSet(list)
	bits := new(big.Int)
	for _, n := range set {
		bits.SetBit(bits, n, 1)
	}
	mask := bits.Bytes()
	slices.Reverse(mask)
	return mask
}
