package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// samples are the measurements by kind and runtime, in the order they were made.
type samples map[string]map[string][]time.Duration

func (s samples) add(kind, runtime string, took time.Duration) {
	if s[kind] == nil {
		s[kind] = make(map[string][]time.Duration)
	}
	s[kind][runtime] = append(s[kind][runtime], took)
}

// kinds are the kinds of measurements in the order of a container's life.
var kinds = []string{"run /bin/true", "create", "start", "exec /bin/true", "state", "delete --force"}

// median of a list that is not empty; of two in the middle the mean.
func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// table writes medians, with the least and the most, and ratios of medians.
func table(out io.Writer, s samples, runtimes []runtime) {
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprint(w, "milliseconds: median (least to most)")
	for _, r := range runtimes {
		fmt.Fprintf(w, "\t%s", r.name)
	}
	for _, r := range runtimes[1:] {
		fmt.Fprintf(w, "\t%s ÷ %s", r.name, runtimes[0].name)
	}
	fmt.Fprintln(w)
	for _, kind := range kinds {
		fmt.Fprint(w, kind)
		for _, r := range runtimes {
			list := s[kind][r.name]
			fmt.Fprintf(w, "\t%.0f (%.0f to %.0f)", ms(median(list)), ms(slices.Min(list)), ms(slices.Max(list)))
		}
		first := median(s[kind][runtimes[0].name])
		for _, r := range runtimes[1:] {
			fmt.Fprintf(w, "\t%.2f", float64(median(s[kind][r.name]))/float64(first))
		}
		fmt.Fprintln(w)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// writeJSON writes all measurements in milliseconds.
func writeJSON(path string, s samples) error {
	all := make(map[string]map[string][]float64)
	for kind, runtimes := range s {
		all[kind] = make(map[string][]float64)
		for name, list := range runtimes {
			for _, d := range list {
				all[kind][name] = append(all[kind][name], ms(d))
			}
		}
	}
	data, err := json.MarshalIndent(map[string]any{"unit": "ms", "samples": all}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
