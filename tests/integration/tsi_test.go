//go:build integration && sockets

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/spec"
)

// differencesFile lists what a guest may do otherwise, and why.
const differencesFile = "../tsi/differences.txt"

// tsiProgram is what tests/tsi/build makes of tests/tsi.
func tsiProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(filepath.Dir(runvPath), "test", "tsi")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run tests/tsi/build bin/test/tsi", err)
	}
	return program
}

// tsiNetns is a namespace as the conformance program wants it: with ways that
// lead nowhere, and its peer.
func tsiNetns(t *testing.T) string {
	t.Helper()
	name := netns(t)
	in := func(args ...string) { ip(t, append([]string{"-n", name}, args...)...) }
	for i, kind := range []string{"unreachable", "prohibit", "blackhole"} {
		in("route", "add", kind, fmt.Sprintf("10.%d.0.0/16", 66+i))
		in("-6", "route", "add", kind, fmt.Sprintf("fd%d::/16", 66+i))
	}
	in("route", "add", "throw", "10.69.0.0/16")
	in("route", "del", "default")
	in("-6", "route", "del", "default")
	ip(t, "netns", "exec", name, "busybox", "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
	return name
}

// startPeer runs the program's other half in the namespace.
func startPeer(t *testing.T, netns string) {
	t.Helper()
	peer := exec.Command("ip", "netns", "exec", netns, tsiProgram(t), "peer")
	out, err := peer.StdoutPipe()
	must(t, err)
	must(t, peer.Start())
	t.Cleanup(func() {
		peer.Process.Kill()
		peer.Wait()
	})
	newLineReader(out).wait(t, "ready")
}

// inTSI makes a container that runs the program.
func inTSI(t *testing.T, netns string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		inNetns(netns)(s)
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: "/tsi", Source: tsiProgram(t), Type: "bind", Options: []string{"bind", "ro"},
		})
		caps := []string{"CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 16, Soft: 1 << 16}}
		s.Annotations[spec.AnnotationMemory] = "512MiB"
	}
}

// TestSockets runs the conformance program in a namespace and in a guest that
// has this namespace, and compares every line.
func TestSockets(t *testing.T) {
	noLeaks(t)
	name := tsiNetns(t)
	startPeer(t, name)
	args := []string{"-s", "100", "-4", "10.9.8.7", "-6", "fd09:8::7"}
	args = append(args, strings.Fields(os.Getenv("RUNV_TEST_SOCKETS"))...)

	ctx, cancel := context.WithTimeout(context.Background(), 4*limit)
	defer cancel()
	native, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", name, tsiProgram(t)}, args...)...).Output()
	if err != nil {
		t.Fatalf("natively: %v", err)
	}
	cmd := command(ctx, "run", "-b", bundle(t, append([]string{"/tsi"}, args...), inTSI(t, name)), newID())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	guest, err := cmd.Output()
	if err != nil {
		t.Errorf("in the guest: %v: %s", err, stderr.String())
	}
	table, err := os.ReadFile(differencesFile)
	must(t, err)
	justified, err := parseDifferences(string(table))
	must(t, err)
	used := make(map[string]bool)
	for _, d := range differences(string(native), string(guest)) {
		entry := slices.IndexFunc(justified, func(pattern string) bool { return matches(pattern, d) })
		if entry < 0 {
			t.Error(d)
			continue
		}
		used[justified[entry]] = true
	}
	if os.Getenv("RUNV_TEST_SOCKETS") != "" {
		return // some cases only
	}
	for _, pattern := range justified {
		if !used[pattern] {
			t.Errorf("%s has this, and it does not happen: %s", differencesFile, pattern)
		}
	}
	t.Logf("%d lines, %d of them justified differences", strings.Count(string(native), "\n"), len(used))
}

// parseDifferences reads the table: lines of a diff from the native output to
// the guest's, each group below its reason, which begins with "#". In the name
// of a case "*" stands for anything.
func parseDifferences(table string) ([]string, error) {
	var list []string
	reason := false
	for line := range strings.Lines(table) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			reason = false
		case line[0] == '#':
			reason = true
		case !reason:
			return nil, fmt.Errorf("%s: no reason for %q", differencesFile, line)
		case line[0] != '-' && line[0] != '+':
			return nil, fmt.Errorf("%s: neither - nor +: %q", differencesFile, line)
		default:
			list = append(list, line)
		}
	}
	return list, nil
}

func matches(pattern, line string) bool {
	patternCase, patternStep, _ := strings.Cut(pattern, ": ")
	lineCase, lineStep, _ := strings.Cut(line, ": ")
	match, err := path.Match(strings.ReplaceAll(patternCase, "/", " "), strings.ReplaceAll(lineCase, "/", " "))
	return err == nil && match && patternStep == lineStep
}

// differences is a diff from one output to the other, case by case.
func differences(native, guest string) []string {
	var order []string
	split := func(text string) map[string][]string {
		cases := make(map[string][]string)
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			name, _, _ := strings.Cut(line, ": ")
			if !slices.Contains(order, name) {
				order = append(order, name)
			}
			cases[name] = append(cases[name], line)
		}
		return cases
	}
	a, b := split(native), split(guest)
	var list []string
	for _, name := range order {
		list = append(list, diff(a[name], b[name])...)
	}
	return list
}

// diff is what is not in the longest common subsequence.
func diff(a, b []string) []string {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var list []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			list = append(list, "-"+a[i])
			i++
		default:
			list = append(list, "+"+b[j])
			j++
		}
	}
	return list
}

// TestManySockets opens and closes thousands, and compares what works and how
// many sockets the kernels have left over.
func TestManySockets(t *testing.T) {
	noLeaks(t)
	count := os.Getenv("RUNV_TEST_SOCKET_COUNT")
	if count == "" {
		count = "1000"
	}
	name := tsiNetns(t)
	native, err := exec.Command("ip", "netns", "exec", name, tsiProgram(t), "stress", count).Output()
	must(t, err)
	dir := bundle(t, []string{"/tsi", "stress", count}, inTSI(t, name), func(s *specs.Spec) {
		s.Annotations[spec.AnnotationMemory] = "128MiB"
	})
	runv(t, nil, "run", "-b", dir, newID()).expect(t, string(native), "", 0)
}
