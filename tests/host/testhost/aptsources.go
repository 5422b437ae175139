package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSource is one suite of one archive, from either of apt's two formats.
type aptSource struct {
	uri, suite string
	components []string
	signedBy   string // may be a path, fingerprints, or a key block (deb822, indented lines)
}

func (s *aptSource) has(component string) bool { return slices.Contains(s.components, component) }

// backports is the deb822 stanza for another suite of the same archive.
func (s *aptSource) backports(suite string) string {
	stanza := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n", s.uri, suite)
	if s.signedBy != "" {
		stanza += "Signed-By: " + s.signedBy + "\n"
	}
	return stanza
}

// aptSources reads sources.list and sources.list.d below dir.
func aptSources(dir string) ([]aptSource, error) {
	var sources []aptSource
	files := []string{filepath.Join(dir, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(dir, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(file, ".sources") {
			sources = append(sources, parseDeb822(string(b))...)
		} else {
			sources = append(sources, parseOneLine(string(b))...)
		}
	}
	return sources, nil
}

// parseOneLine reads "deb [options] uri suite component…" lines.
func parseOneLine(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || line == "" || !strings.ContainsRune(" \t[", rune(line[0])) {
			continue
		}
		var s aptSource
		line = strings.TrimSpace(line)
		if options, rest, ok := strings.Cut(line, "]"); ok && strings.HasPrefix(options, "[") {
			for _, o := range strings.Fields(options[1:]) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					s.signedBy = v
				}
			}
			line = rest
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		s.uri, s.suite, s.components = f[0], f[1], f[2:]
		sources = append(sources, s)
	}
	return sources
}

// parseDeb822 reads stanzas of "Field: value" with continuation lines.
func parseDeb822(text string) []aptSource {
	var sources []aptSource
	fields, last := map[string]string{}, ""
	flush := func() {
		types := strings.Fields(fields["types"])
		if slices.Contains(types, "deb") && strings.ToLower(strings.TrimSpace(fields["enabled"])) != "no" {
			for _, uri := range strings.Fields(fields["uris"]) {
				for _, suite := range strings.Fields(fields["suites"]) {
					sources = append(sources, aptSource{
						uri: uri, suite: suite,
						components: strings.Fields(fields["components"]),
						signedBy:   strings.TrimSpace(fields["signed-by"]),
					})
				}
			}
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				fields[last] += "\n" + line
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if ok {
				last = strings.ToLower(name)
				fields[last] = strings.TrimSpace(value)
			}
		}
	}
	flush()
	return sources
}
