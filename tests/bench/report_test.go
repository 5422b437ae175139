package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []time.Duration
		want time.Duration
	}{
		{[]time.Duration{3}, 3}, {[]time.Duration{9, 1, 2}, 2}, {[]time.Duration{4, 100, 2, 0}, 3},
	} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median(%v) = %v; want %v", tt.in, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	s := make(samples)
	for _, kind := range kinds {
		for _, took := range []time.Duration{10, 30, 20} {
			s.add(kind, "a", took*time.Millisecond)
			s.add(kind, "b", took*2*time.Millisecond)
		}
	}
	var b bytes.Buffer
	table(&b, s, []runtime{{name: "a"}, {name: "b"}})
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 1+len(kinds) || !strings.Contains(lines[1], "20 (10 to 30)  40 (20 to 60)  2.00") {
		t.Errorf("the table is\n%s", b.String())
	}
	path := filepath.Join(t.TempDir(), "new", "out.json")
	if err := writeJSON(path, s); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Samples map[string]map[string][]float64
	}
	if err := json.Unmarshal(data, &read); err != nil || len(read.Samples["create"]["b"]) != 3 || read.Samples["create"]["b"][1] != 60 {
		t.Errorf("%v: %s", err, data)
	}
}
