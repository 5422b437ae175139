package cgroup

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"runv.dev/runv/internal/spec"
)

// None is a limit that is not set.
const None = math.MaxUint64

// Value reads a control file with one number; "max" is None. ok is false if
// there is no such file, because the controller is not enabled or the kernel
// older, or no number in it.
func Value(dir, file string) (n uint64, ok bool) {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	text := string(bytes.TrimSpace(content))
	if text == "max" {
		return None, true
	}
	n, err = strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// Table reads a control file of names and numbers; a missing one is empty.
func Table(dir, file string) map[string]uint64 {
	content, _ := os.ReadFile(filepath.Join(dir, file)) // no file: no figures
	return parseTable(content)
}

func parseTable(content []byte) map[string]uint64 {
	table := make(map[string]uint64)
	for line := range strings.Lines(string(content)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			table[name] = n
		}
	}
	return table
}

// Device is what a cgroup did to a block device, by the names of io.stat.
type Device struct {
	Major, Minor uint64
	Counts       map[string]uint64
}

// IO reads io.stat.
func IO(dir string) []Device {
	content, _ := os.ReadFile(filepath.Join(dir, "io.stat")) // no controller: no figures
	var list []Device
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		major, minor, _ := strings.Cut(fields[0], ":")
		d := Device{Counts: make(map[string]uint64)}
		var err1, err2 error
		d.Major, err1 = strconv.ParseUint(major, 10, 32)
		d.Minor, err2 = strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, field := range fields[1:] {
			name, number, _ := strings.Cut(field, "=")
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				d.Counts[name] = n
			}
		}
		list = append(list, d)
	}
	return list
}

// Pressure is a line of a pressure file: shares of time in percent, and the
// total in microseconds.
type Pressure struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Pressures reads a pressure file. ok is false if the kernel keeps none.
func Pressures(dir, file string) (some, full Pressure, ok bool) {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return some, full, false
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var p *Pressure
		switch fields[0] {
		case "some":
			p = &some
		case "full":
			p = &full
		default:
			continue
		}
		for _, field := range fields[1:] {
			name, number, _ := strings.Cut(field, "=")
			avg, _ := strconv.ParseFloat(number, 64) // 0 if it is none
			switch name {
			case "avg10":
				p.Avg10 = avg
			case "avg60":
				p.Avg60 = avg
			case "avg300":
				p.Avg300 = avg
			case "total":
				p.Total, _ = strconv.ParseUint(number, 10, 64)
			}
		}
		ok = true
	}
	return some, full, ok
}

// Set reads a control file with a list such as 0-3,7.
func Set(dir, file string) []uint16 {
	content, _ := os.ReadFile(filepath.Join(dir, file)) // no controller: none
	set, _ := spec.ParseSet(strings.TrimSpace(string(content)))
	var list []uint16
	for _, n := range set {
		list = append(list, uint16(n))
	}
	return list
}
