// Package report holds what the parts of the benchmark measure: one format for
// all of them, as JSON, as tables and as a chart.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Measurement is one thing that was measured of several programs.
type Measurement struct {
	Part string `json:"part"`
	Name string `json:"name"`
	Unit string `json:"unit"`
	// More says that a larger number is the better one.
	More bool `json:"more_is_better,omitempty"`
	// Base is the program that ratios are to; empty if they would mean nothing.
	Base string `json:"base,omitempty"`
	// Samples are the numbers by program, in the order they were measured.
	Samples map[string][]float64 `json:"samples"`
}

// Run says where and how a part was measured.
type Run struct {
	Part    string    `json:"part"`
	Host    string    `json:"host"` // its kind
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"`
	Memory  int       `json:"memory_mib"`
	Rounds  int       `json:"rounds"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
}

// Failure says why a program has no numbers, or not all.
type Failure struct {
	Part    string `json:"part"`
	Program string `json:"program"`
	Reason  string `json:"reason"`
}

// Report is the result of one part, or of several.
type Report struct {
	Runs         []Run          `json:"runs"`
	Programs     []string       `json:"programs"` // in the order of columns
	Measurements []*Measurement `json:"measurements"`
	Failures     []Failure      `json:"failures,omitempty"`
}

// Add adds a sample to a measurement, which begins to exist with its first.
func (r *Report) Add(m Measurement, program string, value float64) {
	at := slices.IndexFunc(r.Measurements, func(x *Measurement) bool { return x.Part == m.Part && x.Name == m.Name })
	if at < 0 {
		at = len(r.Measurements)
		m.Samples = make(map[string][]float64)
		r.Measurements = append(r.Measurements, &m)
	}
	samples := r.Measurements[at].Samples
	samples[program] = append(samples[program], value)
	r.program(program)
}

func (r *Report) program(name string) {
	if !slices.Contains(r.Programs, name) {
		r.Programs = append(r.Programs, name)
	}
}

// Fail notes why a program has no numbers, or not all.
func (r *Report) Fail(part, program, reason string) {
	r.Failures = append(r.Failures, Failure{part, program, reason})
	r.program(program)
}

// Merge adds the parts of another report.
func (r *Report) Merge(other *Report) {
	r.Runs = append(r.Runs, other.Runs...)
	r.Measurements = append(r.Measurements, other.Measurements...)
	r.Failures = append(r.Failures, other.Failures...)
	for _, name := range other.Programs {
		r.program(name)
	}
}

// parts are the names of the parts, in the order of their first measurement or
// failure.
func (r *Report) parts() []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, m := range r.Measurements {
		add(m.Part)
	}
	for _, f := range r.Failures {
		add(f.Part)
	}
	return names
}

// of are the measurements of a part.
func (r *Report) of(part string) []*Measurement {
	var list []*Measurement
	for _, m := range r.Measurements {
		if m.Part == part {
			list = append(list, m)
		}
	}
	return list
}

// columns are the programs of which at least one of these was measured, those
// that others are compared with before the others.
func (r *Report) columns(list []*Measurement) []string {
	var bases, names []string
	for _, name := range r.Programs {
		switch {
		case !slices.ContainsFunc(list, func(m *Measurement) bool { return len(m.Samples[name]) > 0 }):
		case slices.ContainsFunc(list, func(m *Measurement) bool { return m.Base == name }):
			bases = append(bases, name)
		default:
			names = append(names, name)
		}
	}
	return append(bases, names...)
}

// Read reads what Write wrote.
func Read(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Write writes the report as JSON; a file of that name is replaced at once.
func (r *Report) Write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'))
}

// WriteFile writes a file below a directory that may not exist yet.
func WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
