package lint

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	namedTest  = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9]*`)
	madeTest   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	namedCases = regexp.MustCompile(`\b([a-z]+)/(\{[a-z0-9_*,]+\}|[a-z0-9_]*\*|[a-z0-9_]+)`)
	madeCase   = regexp.MustCompile(`(?m)^CASE\((\w+),`)
)

// TestDocsNameTests: what a page says is tested by name is a test that is there.
func TestDocsNameTests(t *testing.T) {
	made := make(map[string]bool)
	for _, f := range sources(t, "_test.go") {
		for _, m := range madeTest.FindAllSubmatch(read(t, f), -1) {
			made[string(m[1])] = true
		}
	}
	for _, f := range sources(t, ".md") {
		if f == "CHANGELOG.md" {
			continue // tells of what was, too
		}
		for _, name := range namedTest.FindAllString(string(read(t, f)), -1) {
			if !made[name] {
				t.Errorf("%s: there is no %s", f, name)
			}
		}
	}
}

// TestDocsNameCases: the page of what hostile guests try names every case, in its
// tables of what is held and of results, and none that is not there.
func TestDocsNameCases(t *testing.T) {
	const page = "docs/hostile.md"
	cases := make(map[string][]string) // by class
	for _, f := range sources(t, ".c") {
		if dir, file := path.Split(f); dir == "tests/hostile/guest/" && file != "lib.c" {
			for _, m := range madeCase.FindAllSubmatch(read(t, f), -1) {
				class := strings.TrimSuffix(file, ".c")
				cases[class] = append(cases[class], string(m[1]))
			}
		}
	}
	if len(cases) == 0 {
		t.Fatal("no hostile case found: the rule checks nothing")
	}
	held, results, ok := strings.Cut(string(read(t, page)), "\n## Results\n")
	if !ok {
		t.Fatalf("%s has no results", page)
	}
	for part, text := range map[string]string{"what is tested": held, "the results": results} {
		named := make(map[string]bool)
		for _, m := range namedCases.FindAllStringSubmatch(text, -1) {
			class := m[1]
			if cases[class] == nil {
				continue // a path
			}
			for _, pattern := range strings.Split(strings.Trim(m[2], "{}"), ",") {
				found := false
				for _, name := range cases[class] {
					if ok, _ := path.Match(pattern, name); ok {
						found = true
						named[class+"/"+name] = true
					}
				}
				if !found {
					t.Errorf("%s, %s: there is no case %s/%s", page, part, class, pattern)
				}
			}
		}
		var missing []string
		for class, names := range cases {
			for _, name := range names {
				if !named[class+"/"+name] {
					missing = append(missing, class+"/"+name)
				}
			}
		}
		if slices.Sort(missing); len(missing) > 0 {
			t.Errorf("%s, %s: not named: %s", page, part, strings.Join(missing, " "))
		}
	}
}
