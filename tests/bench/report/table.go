package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Table writes a table for each part: of every program the median, the least and
// the most, and the ratio of its median to that of the base.
func (r *Report) Table(out io.Writer) error {
	for i, part := range r.parts() {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := r.table(out, part); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) table(out io.Writer, part string) error {
	list := r.of(part)
	columns := r.columns(list)
	w := tabwriter.NewWriter(out, 0, 1, 1, ' ', 0)
	fmt.Fprintf(w, "%s\t", part)
	for _, name := range columns {
		fmt.Fprintf(w, "| %s\t\t\t", name)
	}
	fmt.Fprintln(w)
	for _, m := range list {
		fmt.Fprintf(w, "  %s, %s\t", m.Name, m.Unit)
		for _, name := range columns {
			if len(m.Samples[name]) == 0 {
				fmt.Fprint(w, "| -\t\t\t")
				continue
			}
			s := Summarize(m.Samples[name])
			fmt.Fprintf(w, "| %s\t(%s to %s)\t", number(s.Median), number(s.Least), number(s.Most))
			if ratio, ok := m.ratios(name); ok && name != m.Base {
				fmt.Fprintf(w, "×%s", number(ratio.Median))
			}
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range r.Failures {
		if f.Part == part {
			if _, err := fmt.Fprintf(out, "  %s: %s\n", f.Program, f.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}

// number has three digits that count, and all before the point.
func number(v float64) string {
	switch {
	case v >= 99.95 || v <= -99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995 || v <= -9.995:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.9995 || v <= -0.9995 || v == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
