package main

import (
	"fmt"
	"io"
	"os/user"
	"strconv"
	"strings"
	"time"

	"runv.dev/runv/agent/client"
)

// Columns of ps(1).
var (
	psFull = []string{"uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"} // -f
	psBSD  = []string{"pid", "tty", "stat", "bsdtime", "command"}               // with x
)

// psRow is a process and what it is shown with.
type psRow struct {
	client.Process
	parent int // in the container; 0: outside of it
	now    time.Time
}

// psColumn is a column of ps(1): its least width, below 0 for one that is aligned
// to the right.
type psColumn struct {
	header string
	width  int
	value  func(psRow) string
}

var psColumns = map[string]psColumn{
	"pid":     {"PID", -7, func(p psRow) string { return strconv.Itoa(p.ContainerPID) }},
	"ppid":    {"PPID", -7, func(p psRow) string { return strconv.Itoa(p.parent) }},
	"uid":     {"UID", 8, func(p psRow) string { return userName(p.UID) }},
	"user":    {"USER", 8, func(p psRow) string { return userName(p.UID) }},
	"gid":     {"GID", -5, func(p psRow) string { return strconv.FormatUint(uint64(p.GID), 10) }},
	"c":       {"C", -2, func(p psRow) string { return strconv.Itoa(p.usage()) }},
	"stat":    {"STAT", 4, func(p psRow) string { return p.State }},
	"s":       {"S", 1, func(p psRow) string { return p.State }},
	"stime":   {"STIME", 5, psRow.start},
	"etime":   {"ELAPSED", -11, func(p psRow) string { return elapsed(p.now.Sub(p.Started)) }},
	"tty":     {"TTY", 8, func(p psRow) string { return ttyName(p.TTY) }},
	"time":    {"TIME", -8, psRow.cpuTime},
	"bsdtime": {"TIME", -6, psRow.bsdTime},
	"rss":     {"RSS", -5, func(p psRow) string { return strconv.FormatUint(p.RSS>>10, 10) }},
	"comm":    {"COMMAND", 15, func(p psRow) string { return p.Command }},
	"cmd":     {"CMD", 0, psRow.line},
	"args":    {"COMMAND", 0, psRow.line},
	"command": {"COMMAND", 0, psRow.line},
}

// parsePSOptions has the columns that options of ps(1) ask for.
func parsePSOptions(options []string) ([]string, error) {
	columns := psFull
	for len(options) > 0 {
		option := options[0]
		letters, dashed := strings.CutPrefix(option, "-")
		options = options[1:]
		for i, letter := range letters {
			switch {
			case strings.ContainsRune("eAaw", letter):
			case letter == 'x':
				columns = psBSD
			case letter == 'f' && dashed:
				columns = psFull
			case letter == 'o':
				list := letters[i+1:]
				if list == "" && len(options) > 0 {
					list, options = options[0], options[1:]
				}
				return psList(list, options)
			default:
				return nil, fmt.Errorf("ps: %q: of the options of ps(1) there are only -e, -A, a, x, -f and -o COLUMNS: the processes are in a VM", option)
			}
		}
	}
	return columns, nil
}

// psList reads the columns of -o.
func psList(list string, rest []string) ([]string, error) {
	if len(rest) > 0 {
		return nil, fmt.Errorf("ps: %q: nothing may follow the columns of -o", rest[0])
	}
	columns := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	for _, name := range columns {
		if _, known := psColumns[name]; !known {
			return nil, fmt.Errorf("ps: there is no column %q: see `runv ps --help`", name)
		}
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("ps: -o %q: wants columns: see `runv ps --help`", list)
	}
	return columns, nil
}

// psTable writes columns of processes.
func psTable(out io.Writer, list []client.Process, columns []string, now time.Time) error {
	inside := make(map[int]int, len(list))
	for _, p := range list {
		inside[p.PID] = p.ContainerPID
	}
	rows := make([][]string, 1+len(list))
	widths := make([]int, len(columns))
	for i, name := range columns {
		column := psColumns[name]
		widths[i] = column.width
		for n := range rows {
			field := column.header
			if n > 0 {
				p := list[n-1]
				field = column.value(psRow{p, inside[p.ParentPID], now})
			}
			rows[n] = append(rows[n], field)
			if column.width < 0 {
				widths[i] = min(widths[i], -len(field))
			} else {
				widths[i] = max(widths[i], len(field))
			}
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, field := range row {
			fmt.Fprintf(&line, "%*s ", -widths[i], field)
		}
		if _, err := fmt.Fprintln(out, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// userName is the name this host has for a user id, as ps on the host shows it;
// the number if it has none.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// usage is the share of a processor since the start, in percent.
func (p psRow) usage() int {
	age := p.now.Sub(p.Started)
	if age <= 0 {
		return 0
	}
	return min(int(p.CPUTime*100/age), 99)
}

func (p psRow) start() string {
	if p.now.Sub(p.Started) >= 24*time.Hour {
		return p.Started.Format("Jan02")
	}
	return p.Started.Format("15:04")
}

func (p psRow) cpuTime() string {
	seconds := int(p.CPUTime / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
}

func (p psRow) bsdTime() string {
	seconds := int(p.CPUTime / time.Second)
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

// elapsed is [[DD-]hh:]mm:ss.
func elapsed(d time.Duration) string {
	seconds := max(int(d/time.Second), 0)
	text := fmt.Sprintf("%02d:%02d", seconds/60%60, seconds%60)
	if hours := seconds / 3600; hours > 0 {
		text = fmt.Sprintf("%02d:%s", hours%24, text)
	}
	if days := seconds / 86400; days > 0 {
		text = fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

// line is the command line, or the name in brackets of a process that has none.
func (p psRow) line() string {
	if line := strings.TrimSpace(strings.Join(p.Args, " ")); line != "" {
		return line
	}
	return "[" + p.Command + "]"
}

// ttyName is the name of a terminal with the device number dev, as in
// /proc/PID/stat: pts/0 and on have the majors 136 to 143.
func ttyName(dev uint32) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<20|minor)
	case major == 5 && minor == 1:
		return "console"
	}
	return fmt.Sprintf("%d:%d", major, minor)
}
