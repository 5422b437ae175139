// Package lint holds the rules of this repository that no ready-made linter
// knows. CONTRIBUTING.md gives the reasons.
package lint

import (
	"bytes"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository, seen from this package's directory.
const root = "../.."

// sources lists the repository's regular files, relative to root, whose names
// end in suffix. Build output is not part of it.
func sources(t *testing.T, suffix string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains([]string{".git", "bin", "bench/out"}, rel) || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() && strings.HasSuffix(rel, suffix) {
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no file named *%s: the rule checks nothing", suffix)
	}
	return files
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func generated(name string) bool { return strings.HasSuffix(name, ".pb.go") }

func TestFormat(t *testing.T) {
	for _, f := range sources(t, ".go") {
		b := read(t, f)
		want, err := format.Source(b)
		if err != nil {
			t.Errorf("%s: %v", f, err)
		} else if !bytes.Equal(b, want) {
			t.Errorf("%s: run gofmt -w", f)
		}
	}
}

// maxLines leaves some room above the 500 lines a file should have.
const maxLines = 550

func TestFileLength(t *testing.T) {
	for _, f := range sources(t, ".go") {
		if n := bytes.Count(read(t, f), []byte("\n")); n > maxLines && !generated(f) {
			t.Errorf("%s: %d lines, want at most %d: split it", f, n, maxLines)
		}
	}
}

// forbidden are texts no file of ours may hold.
var forbidden = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{
		"the host name of a package mirror: take it from the apt sources",
		regexp.MustCompile(`(?i)\b[a-z0-9-]+(\.[a-z]{2})?\.(debian|ubuntu)\.(org|com|net)\b|\bcdn-fastly\b`),
	},
	{
		"a mark for work left undone: do it or file it",
		regexp.MustCompile(`\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b`),
	},
}

func TestForbiddenText(t *testing.T) {
	for _, f := range sources(t, "") {
		if f == "LICENSE" || strings.HasSuffix(f, "/LICENSE") || strings.HasPrefix(f, "kernel/patches/") {
			continue
		}
		for i, line := range bytes.Split(read(t, f), []byte("\n")) {
			for _, rule := range forbidden {
				if m := rule.pattern.Find(line); m != nil {
					t.Errorf("%s:%d: %q is %s", f, i+1, m, rule.what)
				}
			}
		}
	}
}

func TestForbiddenPatterns(t *testing.T) {
	mirror, mark := forbidden[0].pattern, forbidden[1].pattern
	for _, tc := range []struct {
		pattern *regexp.Regexp
		text    string
		want    bool
	}{
		{mirror, "http://" + "deb" + ".debian" + ".org/debian", true},
		{mirror, "ftp.de" + ".debian" + ".org", true},
		{mirror, "runv.dev/runv", false},
		{mirror, "Debian's packages", false},
		{mark, "// " + "TO" + "DO: later", true},
		{mark, "mktemp /tmp/x.XXXXXX", false},
	} {
		if got := tc.pattern.MatchString(tc.text); got != tc.want {
			t.Errorf("%v matches %q: %v, want %v", tc.pattern, tc.text, got, tc.want)
		}
	}
}

func TestShellScripts(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Fatal("shellcheck is missing: tests/deps test installs it")
	}
	var scripts []string
	for _, f := range sources(t, "") {
		head, _, _ := bytes.Cut(read(t, f), []byte("\n"))
		if path.Ext(f) == ".sh" || bytes.HasPrefix(head, []byte("#!")) && bytes.Contains(head, []byte("sh")) {
			scripts = append(scripts, f)
		}
	}
	if len(scripts) == 0 {
		t.Fatal("no shell script found: the rule checks nothing")
	}
	cmd := exec.Command("shellcheck", append([]string{"-x"}, scripts...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}
