package hostile

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// testCase is a CASE of one of the guest's source files.
type testCase struct {
	Class string // the file, without .c
	Name  string
	What  string // the guest does
	options
}

// options of a case, as its source has them: space-separated words.
type options struct {
	MemoryMiB uint64 // mem=N: the guest's memory; 32
	VCPUs     int    // vcpus=N; 1
	// Exit is how the VM is to end: reset, shutdown (a triple fault), dead (that,
	// or KVM cannot go on) or stopped (by the test, as the guest does not end).
	// With anything but reset, the guest reports nothing itself.
	Exit string
	// Stalled: the console's writer takes nothing.
	Stalled bool
	// Hidden: not run by itself.
	Hidden bool
}

var casePattern = regexp.MustCompile(`(?m)^CASE\((\w+),\s*"([^"]*)",\s*"([^"]*)"\)`)

// cases finds all cases in the guest's sources.
func cases(t testing.TB) []testCase {
	t.Helper()
	files, err := filepath.Glob("guest/*.c")
	if err != nil || len(files) == 0 {
		t.Fatalf("no guest sources: %v", err)
	}
	var all []testCase
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := casePattern.FindAllStringSubmatch(string(text), -1)
		if n := strings.Count(string(text), "\nCASE("); n != len(found) {
			t.Fatalf("%s: %d cases, of which %d can be read", file, n, len(found))
		}
		for _, m := range found {
			c := testCase{Class: strings.TrimSuffix(filepath.Base(file), ".c"), Name: m[1], What: m[2]}
			if c.options, err = parseOptions(m[3]); err != nil {
				t.Fatalf("%s: %s: %v", file, c.Name, err)
			}
			all = append(all, c)
		}
	}
	return all
}

func parseOptions(s string) (options, error) {
	o := options{MemoryMiB: 32, VCPUs: 1, Exit: "reset"}
	for word := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "mem":
			o.MemoryMiB, err = strconv.ParseUint(value, 10, 32)
		case "vcpus":
			o.VCPUs, err = strconv.Atoi(value)
		case "exit":
			o.Exit = value
		case "stalled":
			o.Stalled = true
		case "hidden":
			o.Hidden = true
		default:
			err = fmt.Errorf("unknown option %q", word)
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// compilerFlags make a kernel of the guests: no C library, no instructions
// beyond those that every emulator of kernel code has, and all of it at 2 MiB.
var compilerFlags = strings.Fields(`-O1 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie -mno-red-zone
	-mgeneral-regs-only -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none
	-nostdlib -static -Wl,--build-id=none -Wl,-Ttext-segment=0x200000 -Wl,-z,noseparate-code
	-Wl,-z,max-page-size=4096 -Wl,-e,start`)

// buildGuest compiles all guests into one kernel, which has the case to run on
// its command line. It is kept by content: where a test host emulates its
// processor, a compiler takes minutes.
func buildGuest(t testing.TB) string {
	t.Helper()
	sources, err := filepath.Glob("guest/*")
	must(t, err)
	hash := sha256.New()
	fmt.Fprintln(hash, compilerFlags)
	args := slices.Clone(compilerFlags)
	for _, name := range sources {
		text, err := os.ReadFile(name)
		must(t, err)
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		if !strings.HasSuffix(name, ".h") {
			args = append(args, name)
		}
	}
	dir := filepath.Join("..", "..", "bin", "hostile")
	out := filepath.Join(dir, fmt.Sprintf("guest-%x.elf", hash.Sum(nil)[:8]))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	must(t, os.MkdirAll(dir, 0o755))
	temp := fmt.Sprintf("%s.%d", out, os.Getpid())
	if output, err := exec.Command("gcc", append(args, "-o", temp)...).CombinedOutput(); err != nil {
		t.Fatalf("build the guests (`tests/deps test` installs gcc): %v\n%s", err, output)
	}
	must(t, os.Rename(temp, out))
	return out
}
