package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// figure is one measurement.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// result is what one program measured, as far as it got.
type result struct {
	Name    string   `json:"name"`
	Figures []figure `json:"figures"`
	Err     string   `json:"error,omitempty"`
}

// parse reads the program's output: a name, a number and a unit a line, between
// tabs. Other lines are none of it.
func parse(out string) []figure {
	var list []figure
	for line := range strings.Lines(out) {
		parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(parts) != 3 {
			continue
		}
		if value, err := strconv.ParseFloat(parts[1], 64); err == nil {
			list = append(list, figure{parts[0], value, parts[2]})
		}
	}
	return list
}

// table writes the figures of the first result, and those of the others beside
// it, each with its ratio to the first.
func table(out io.Writer, all []result) {
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	fmt.Fprint(w, "sockets")
	for i, r := range all {
		fmt.Fprintf(w, "\t%s", r.Name)
		if i > 0 {
			fmt.Fprintf(w, "\t÷ %s", all[0].Name)
		}
	}
	fmt.Fprintln(w)
	for i, first := range all[0].Figures {
		fmt.Fprintf(w, "%s, %s\t%.1f", first.Name, first.Unit, first.Value)
		for _, r := range all[1:] {
			if i >= len(r.Figures) || first.Value == 0 {
				fmt.Fprint(w, "\t-\t-")
				continue
			}
			fmt.Fprintf(w, "\t%.1f\t%.2f", r.Figures[i].Value, r.Figures[i].Value/first.Value)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, r := range all {
		if r.Err != "" {
			fmt.Fprintf(out, "%s: %s\n", r.Name, r.Err)
		}
	}
}
