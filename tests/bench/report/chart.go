package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The chart's measures, in its own units.
const (
	labelWidth = 330 // for the names of measurements
	plotWidth  = 620
	valueWidth = 220 // for what 1 stands for
	rowHeight  = 22
	headHeight = 34 // above the rows of a part
	topHeight  = 96
	footHeight = 46
	margin     = 16
	labelRoom  = 48 // for a label of the scale
)

// mark tells a program apart, by colour and by shape.
type mark struct{ colour, shape string }

// marks are those of programs that have the same in every chart.
var marks = map[string]mark{
	"native": {"#222222", "square"}, "crun": {"#777777", "square"}, "runc": {"#d1603d", "square"},
	"runsc": {"#8e5ea2", "triangle"}, "QEMU microvm": {"#b8860b", "cross"},
	"runv": {"#1f77b4", "circle"}, "runv-boot": {"#2a9d5c", "diamond"},
}

// otherMarks are those of any other program, by its column.
var otherMarks = []mark{{"#c2185b", "triangle"}, {"#00838f", "cross"}, {"#6d4c41", "diamond"}}

func markOf(column int, name string) mark {
	if m, ok := marks[name]; ok {
		return m
	}
	return otherMarks[column%len(otherMarks)]
}

// Chart writes an SVG: a row for each measurement that has ratios, a mark for
// each program at how many times the base's cost its own is, on a logarithmic
// scale, with a line from the least to the most.
func (r *Report) Chart(out io.Writer, title string) error {
	var rows []*Measurement
	height := topHeight + footHeight
	part := ""
	for _, name := range r.parts() {
		for _, m := range r.of(name) {
			if !r.charted(m) {
				continue
			}
			if m.Part != part {
				part, height = m.Part, height+headHeight
			}
			rows, height = append(rows, m), height+rowHeight
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("nothing to draw: no measurement has a ratio")
	}
	c := &chart{low: 1, high: 1}
	columns := r.columns(rows)
	for _, m := range rows {
		for _, name := range columns {
			if s, ok := m.costs(name); ok {
				c.low, c.high = min(c.low, s.Least), max(c.high, s.Most)
			}
		}
	}
	c.round()
	width := labelWidth + plotWidth + valueWidth + 2*margin
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`,
		width, height, width, height)
	c.printf(`<rect width="%d" height="%d" fill="white"/>`, width, height)
	c.text(margin, 28, "start", "#111111", `font-size="18" font-weight="bold"`, title)
	c.text(margin, 48, "start", "#555555", "", "Times the cost of the base (1): left of the line is better, right of it worse. Lines go from the least to the most.")
	c.legend(columns)
	c.axis(topHeight-6, float64(height-footHeight))
	y := float64(topHeight)
	part = ""
	for _, m := range rows {
		if m.Part != part {
			part = m.Part
			y += headHeight
			c.text(margin, y-9, "start", "#111111", `font-weight="bold"`, part)
			c.printf(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`, margin, y-3, width-margin, y-3)
		}
		middle := y + rowHeight/2
		c.text(margin+10, middle+4.5, "start", "#222222", "", m.Name)
		base := Summarize(m.Samples[m.Base]).Median
		c.text(labelWidth+plotWidth+margin+14, middle+4.5, "start", "#555555", `font-size="12"`,
			fmt.Sprintf("1 = %s %s, %s", number(base), m.Unit, m.Base))
		// The base lies below what is compared with it.
		for i, name := range columns {
			if s, ok := m.costs(name); ok && name == m.Base {
				c.mark(markOf(i, name), s, middle)
			}
		}
		for i, name := range columns {
			if s, ok := m.costs(name); ok && name != m.Base {
				c.mark(markOf(i, name), s, middle)
			}
		}
		y += rowHeight
	}
	c.printf("</svg>\n")
	_, err := io.WriteString(out, c.b.String())
	return err
}

// charted: something is compared with the base.
func (r *Report) charted(m *Measurement) bool {
	for _, name := range r.Programs {
		if _, ok := m.costs(name); ok && name != m.Base {
			return true
		}
	}
	return false
}

// chart is a drawing whose scale goes from low to high.
type chart struct {
	b         strings.Builder
	low, high float64
}

func (c *chart) printf(format string, args ...any) { fmt.Fprintf(&c.b, format, args...) }

func (c *chart) text(x, y float64, anchor, colour, more, text string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" %s>%s</text>`, x, y, anchor, colour, more, html.EscapeString(text))
}

// round widens the scale to numbers that begin with 1, 2 or 5, and so that there
// is something on both sides of 1.
func (c *chart) round() {
	c.low, c.high = min(c.low, 0.5), max(c.high, 2)
	low, high := 1.0, 1.0
	for i := -1; low > c.low; i-- {
		low = tick(i)
	}
	for i := 1; high < c.high; i++ {
		high = tick(i)
	}
	c.low, c.high = low, high
}

// tick has the numbers that begin with 1, 2 or 5, in order; the 0th is 1.
func tick(i int) float64 {
	decade := int(math.Floor(float64(i) / 3))
	return []float64{1, 2, 5}[i-3*decade] * math.Pow(10, float64(decade))
}

func (c *chart) x(ratio float64) float64 {
	return margin + labelWidth + plotWidth*math.Log(ratio/c.low)/math.Log(c.high/c.low)
}

func (c *chart) axis(top, bottom float64) {
	first := 0
	for tick(first) > c.low*1.001 {
		first--
	}
	// Labels need room: on a wide scale only the powers of ten have one.
	crowded := c.x(2)-c.x(1) < labelRoom
	for i := first; tick(i) <= c.high*1.001; i++ {
		x, colour, width := c.x(tick(i)), "#e4e4e4", 1.0
		if i == 0 {
			colour, width = "#555555", 1.5
		}
		c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`, x, top, x, bottom, colour, width)
		if crowded && i%3 != 0 {
			continue
		}
		label := "×" + fmt.Sprintf("%.4g", tick(i))
		c.text(x, top-4, "middle", "#555555", `font-size="12"`, label)
		c.text(x, bottom+18, "middle", "#555555", `font-size="12"`, label)
	}
}

func (c *chart) legend(columns []string) {
	x := float64(margin + 10)
	for i, name := range columns {
		c.shape(markOf(i, name), x, 66)
		c.text(x+12, 70.5, "start", "#222222", "", name)
		x += 40 + 8*float64(len([]rune(name)))
	}
}

// mark draws a median, with a line from the least to the most.
func (c *chart) mark(m mark, s Summary, y float64) {
	c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="2" stroke-opacity="0.45"/>`,
		c.x(s.Least), y, c.x(s.Most), y, m.colour)
	c.shape(m, c.x(s.Median), y)
}

func (c *chart) shape(m mark, x, y float64) {
	path := map[string]string{
		"square":   "M -4.5 -4.5 h 9 v 9 h -9 z",
		"triangle": "M 0 -6 L 6 5 L -6 5 z",
		"circle":   "M -5.5 0 a 5.5 5.5 0 1 0 11 0 a 5.5 5.5 0 1 0 -11 0 z",
		"diamond":  "M 0 -7 L 6 0 L 0 7 L -6 0 z",
		"cross":    "M -6 -2 h 4 v -4 h 4 v 4 h 4 v 4 h -4 v 4 h -4 v -4 h -4 z",
	}[m.shape]
	c.printf(`<path d="%s" transform="translate(%.1f %.1f)" fill="%s" fill-opacity="0.85" stroke="white" stroke-width="0.8"/>`, path, x, y, m.colour)
}
