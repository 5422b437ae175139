package report

import "slices"

// Summary describes a list of numbers.
type Summary struct {
	Median, Least, Most float64
}

// Summarize describes a list that is not empty. The median of an even number of
// numbers is the mean of the two in the middle.
func Summarize(list []float64) Summary {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	s := Summary{Median: sorted[n/2], Least: sorted[0], Most: sorted[n-1]}
	if n%2 == 0 {
		s.Median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return s
}

// ratios has what a program's numbers are of the median of the base, and whether
// there is such a thing: Least and Most are what those of the program would be.
func (m *Measurement) ratios(program string) (Summary, bool) {
	base, list := m.Samples[m.Base], m.Samples[program]
	if len(base) == 0 || len(list) == 0 {
		return Summary{}, false
	}
	one, s := Summarize(base).Median, Summarize(list)
	if one <= 0 {
		return Summary{}, false
	}
	return Summary{s.Median / one, s.Least / one, s.Most / one}, true
}

// costs are ratios that say the same of all measurements: twice is twice as bad.
// A number that is not positive has none.
func (m *Measurement) costs(program string) (Summary, bool) {
	s, ok := m.ratios(program)
	if !ok || s.Least <= 0 {
		return Summary{}, false
	}
	if m.More {
		s = Summary{1 / s.Median, 1 / s.Most, 1 / s.Least}
	}
	return s, true
}
