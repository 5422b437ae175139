package report

import (
	"bytes"
	"encoding/xml"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var (
	short  = Measurement{Part: "lifecycle", Name: "run <true>", Unit: "ms", Base: "crun"}
	rate   = Measurement{Part: "network", Name: "stream", Unit: "MiB/s", More: true, Base: "native"}
	single = Measurement{Part: "lifecycle", Name: "until agent", Unit: "ms"}
)

func example() *Report {
	r := &Report{Runs: []Run{{Part: "lifecycle", Host: "emulated", CPUs: 2, Rounds: 3}}}
	for _, v := range []float64{10, 30, 20} {
		r.Add(short, "crun", v)
		r.Add(short, "runv", v*2)
	}
	r.Add(single, "runv", 7)
	r.Fail("lifecycle", "runsc", "no such thing")
	r.Add(rate, "native", 200)
	r.Add(rate, "runv", 50)
	return r
}

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want Summary
	}{
		{[]float64{3}, Summary{3, 3, 3}},
		{[]float64{9, 1, 2}, Summary{2, 1, 9}},
		{[]float64{4, 100, 2, 0}, Summary{3, 0, 100}},
	} {
		before := append([]float64(nil), tt.in...)
		if got := Summarize(tt.in); got != tt.want {
			t.Errorf("Summarize(%v) = %v; want %v", tt.in, got, tt.want)
		}
		if !reflect.DeepEqual(tt.in, before) {
			t.Errorf("Summarize changed its list from %v to %v", before, tt.in)
		}
	}
}

func TestCosts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		m       Measurement
		samples map[string][]float64
		want    Summary
		ok      bool
	}{
		{"less is better", short, map[string][]float64{"crun": {10}, "runv": {20, 15, 40}}, Summary{2, 1.5, 4}, true},
		{"more is better", rate, map[string][]float64{"native": {100}, "runv": {50, 25, 200}}, Summary{2, 0.5, 4}, true},
		{"no base", short, map[string][]float64{"runv": {20}}, Summary{}, false},
		{"a base of nothing", short, map[string][]float64{"crun": {0}, "runv": {20}}, Summary{}, false},
		{"not measured", short, map[string][]float64{"crun": {10}}, Summary{}, false},
		{"nothing measured", rate, map[string][]float64{"native": {10}, "runv": {0}}, Summary{}, false},
	} {
		tt.m.Samples = tt.samples
		if got, ok := tt.m.costs("runv"); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := example().Table(&b); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	want := []string{
		"lifecycle         | crun                 | runv",
		"  run <true>, ms  | 20.0 (10.0 to 30.0)  | 40.0 (20.0 to 60.0) ×2.00",
		"  until agent, ms | -                    | 7.00 (7.00 to 7.00)",
		"  runsc: no such thing",
		"",
		"network         | native              | runv",
		"  stream, MiB/s | 200 (200 to 200)    | 50.0 (50.0 to 50.0) ×0.250",
	}
	if len(got) != len(want) {
		t.Fatalf("the tables are\n%s", b.String())
	}
	for i := range want {
		if strings.Join(strings.Fields(got[i]), " ") != strings.Join(strings.Fields(want[i]), " ") {
			t.Errorf("line %d: %q; want %q", i, got[i], want[i])
		}
	}
	if strings.Index(got[0], "| runv") != len([]rune(got[1][:strings.Index(got[1], "| 40.0")])) {
		t.Errorf("columns are not below their heads:\n%s", b.String())
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[float64]string{
		0: "0.00", 0.0123: "0.012", 0.9996: "1.00", 1.234: "1.23", 9.996: "10.0", 99.96: "100", 1234.5: "1234", -12.34: "-12.3",
	} {
		if got := number(in); got != want {
			t.Errorf("number(%v) = %s; want %s", in, got, want)
		}
	}
}

func TestFiles(t *testing.T) {
	r, path := example(), filepath.Join(t.TempDir(), "new", "out.json")
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	read, err := Read(path)
	if err != nil || !reflect.DeepEqual(r, read) {
		t.Errorf("wrote %+v, read %+v, %v", r, read, err)
	}
	if _, err := Read(filepath.Dir(path)); err == nil {
		t.Error("a directory is a report")
	}
	if err := WriteFile(path, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a file: %v", err)
	}
}

func TestMerge(t *testing.T) {
	r := &Report{Programs: []string{"crun", "runsc"}}
	r.Merge(example())
	if want := []string{"crun", "runsc", "runv", "native"}; !reflect.DeepEqual(r.Programs, want) {
		t.Errorf("programs: %v; want %v", r.Programs, want)
	}
	if len(r.Runs) != 1 || len(r.Measurements) != 3 || len(r.Failures) != 1 {
		t.Errorf("merged: %+v", r)
	}
}

func TestChart(t *testing.T) {
	var b bytes.Buffer
	if err := example().Chart(&b, "a & b"); err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]int)
	paths := 0
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in %s", err, b.String())
		}
		switch x := token.(type) {
		case xml.CharData:
			texts[string(x)]++
		case xml.StartElement:
			if x.Name.Local == "path" {
				paths++
			}
		}
	}
	for _, want := range []string{"a & b", "run <true>", "stream", "1 = 20.0 ms, crun", "1 = 200 MiB/s, native", "lifecycle", "network", "×1", "×5"} {
		if texts[want] == 0 {
			t.Errorf("the chart does not say %q", want)
		}
	}
	if texts["until agent"] != 0 {
		t.Error("a measurement without ratios is drawn")
	}
	// Three programs in the legend, and two marks for each of two rows.
	if paths != 3+2*2 {
		t.Errorf("%d marks", paths)
	}
	if err := new(Report).Chart(io.Discard, ""); err == nil {
		t.Error("an empty report has a chart")
	}
}

func TestScale(t *testing.T) {
	for _, tt := range []struct{ low, high, wantLow, wantHigh float64 }{
		{1, 1, 0.5, 2}, {0.3, 6, 0.2, 10}, {0.1, 2.1, 0.1, 5}, {0.05, 130, 0.05, 200},
	} {
		c := &chart{low: tt.low, high: tt.high}
		c.round()
		if close := func(a, b float64) bool { return a/b > 0.999 && a/b < 1.001 }; !close(c.low, tt.wantLow) || !close(c.high, tt.wantHigh) {
			t.Errorf("%v to %v is drawn from %v to %v", tt.low, tt.high, c.low, c.high)
		}
		if c.x(c.low) != margin+labelWidth || c.x(c.high) != margin+labelWidth+plotWidth {
			t.Errorf("the scale goes from %v to %v", c.x(c.low), c.x(c.high))
		}
	}
	for i, want := range map[int]float64{-4: 0.05, -3: 0.1, -1: 0.5, 0: 1, 1: 2, 2: 5, 3: 10} {
		if got := tick(i); got/want < 0.999 || got/want > 1.001 {
			t.Errorf("tick(%d) = %v; want %v", i, got, want)
		}
	}
}

// Labels of the scale do not run into each other.
func TestCrowdedScale(t *testing.T) {
	for high, want := range map[float64]bool{5: true, 2000: false} {
		c := &chart{low: 0.1, high: high}
		c.axis(0, 10)
		if got := strings.Contains(c.b.String(), ">×2<"); got != want {
			t.Errorf("up to %v: ×2 has a label: %v", high, got)
		}
		if !strings.Contains(c.b.String(), ">×1<") {
			t.Errorf("up to %v: ×1 has no label", high)
		}
	}
}

func TestMarks(t *testing.T) {
	seen := make(map[mark]string)
	for name := range marks {
		m := markOf(0, name)
		if other, ok := seen[m]; ok {
			t.Errorf("%s and %s have the same mark", name, other)
		}
		seen[m] = name
	}
	for i := range otherMarks {
		if m := markOf(i, "youki"); seen[m] != "" {
			t.Errorf("youki and %s have the same mark", seen[m])
		}
	}
}
