//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/spec"
)

// templates is a store of its own for a test.
func templates(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "templates")
	t.Cleanup(func() { // its files are protected
		runv(t, nil, "--templates", dir, "template", "prune", "--all").expect(t, "*", "", 0)
	})
	return dir
}

// buildTemplate builds the template for the bundles of these tests.
func buildTemplate(t *testing.T, dir string) {
	t.Helper()
	r := runv(t, nil, "--templates", dir, "template", "build", "--memory", "268435456", "--vcpus", "1")
	if r.status != 0 || !strings.HasSuffix(r.stdout, ": built\n") {
		t.Fatalf("template build: status %d, %q, %q", r.status, r.stdout, r.stderr)
	}
}

// start runs a bundle and tells whether its guest was cloned, and else why not.
func start(t *testing.T, dir, bundle string, args ...string) (r result, cloned bool, reason string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	r = runv(t, nil, append([]string{"--templates", dir, "--debug", "--log-format", "json", "--log", log, "run", "-b", bundle}, args...)...)
	data, err := os.ReadFile(log)
	must(t, err)
	for line := range strings.Lines(string(data)) {
		var entry struct{ Msg, Stage, Reason string }
		must(t, json.Unmarshal([]byte(line), &entry))
		cloned = cloned || entry.Stage == "restored"
		if entry.Msg == "the guest was booted instead of cloned" {
			reason = entry.Reason
		}
	}
	return r, cloned, reason
}

// waitTemplate waits until there is a template that can be used.
func waitTemplate(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		r := runv(t, nil, "--templates", dir, "template", "list", "--format", "json")
		var list []struct{ Problem string }
		must(t, json.Unmarshal([]byte(r.stdout), &list))
		for _, template := range list {
			if template.Problem == "" {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no template: %s %s", r.stdout, r.stderr)
		}
	}
}

// TestTemplateFirstUse: the first container boots and has a template built, by
// one process however many there are; the next one is a clone, and an
// annotation or --templates off leave it alone.
func TestTemplateFirstUse(t *testing.T) {
	noLeaks(t)
	dir := templates(t)
	hello := bundle(t, []string{"echo", "hello"})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			r, cloned, reason := start(t, dir, hello, newID())
			r.expect(t, "hello\n", "", 0)
			if cloned || !strings.Contains(reason, "no template yet") {
				t.Errorf("first start: cloned %v, %q", cloned, reason)
			}
		})
	}
	wg.Wait()
	waitTemplate(t, dir)
	r, cloned, reason := start(t, dir, hello, newID())
	r.expect(t, "hello\n", "", 0)
	if !cloned || reason != "" {
		t.Errorf("next start: cloned %v, %q", cloned, reason)
	}
	r, cloned, reason = start(t, "off", hello, newID())
	r.expect(t, "hello\n", "", 0)
	if cloned || reason != "" {
		t.Errorf("--templates off: cloned %v, %q", cloned, reason)
	}
	off := bundle(t, []string{"echo", "hello"}, func(s *specs.Spec) { s.Annotations[spec.AnnotationTemplate] = "off" })
	r, cloned, reason = start(t, dir, off, newID())
	r.expect(t, "hello\n", "", 0)
	if cloned || reason != "" {
		t.Errorf("annotation: cloned %v, %q", cloned, reason)
	}
	files, err := filepath.Glob(dir + "/*.memory")
	if err != nil || len(files) != 1 {
		t.Errorf("memory files: %q, %v", files, err)
	}
}

// TestTemplateDamage does to a template what may happen to it. Who runs in a
// clone does not notice, and the next container starts.
func TestTemplateDamage(t *testing.T) {
	noLeaks(t)
	dir := templates(t)
	buildTemplate(t, dir)
	hello := bundle(t, []string{"echo", "hello"})
	loop := bundle(t, []string{"sh", "-c", "echo up; while read line; do sha256sum /bin/busybox >/dev/null; echo $line; done"})
	clone := inBackground(t, "--templates", dir, "run", "-b", loop, newID())
	clone.out.wait(t, "up")
	state := one(t, dir+"/*.state")
	memory := one(t, dir+"/*.memory")
	original, err := os.ReadFile(state)
	must(t, err)
	writable := func(path string) { // as an operator would who insists
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
			must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^0x10))
		}
		must(t, os.Chmod(path, 0o600))
	}
	for _, damage := range []struct {
		name   string
		reason string
		do     func()
	}{
		{"flipped bit in the state", "checksum", func() {
			bad := bytes.Clone(original)
			bad[len(bad)/2] ^= 4
			must(t, os.WriteFile(state, bad, 0o600))
		}},
		{"truncated state", "damaged", func() { must(t, os.WriteFile(state, original[:len(original)-1], 0o600)) }},
		{"empty state", "damaged", func() { must(t, os.WriteFile(state, nil, 0o600)) }},
		{"other permissions", "others have access", func() {
			must(t, os.WriteFile(state, original, 0o600))
			must(t, os.Chmod(state, 0o644))
		}},
		{"flipped bit in the memory", "has changed", func() {
			must(t, os.Chmod(state, 0o600))
			if f, err := os.OpenFile(memory, os.O_WRONLY, 0); err == nil {
				t.Error("the memory can be changed in place")
				f.Close()
			}
			// What the clone has not touched yet may change for it: it gets a
			// page that does not matter, the last one.
			writable(memory)
			f, err := os.OpenFile(memory, os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			st, err := f.Stat()
			must(t, err)
			_, err = f.WriteAt([]byte{1}, st.Size()-1)
			must(t, err)
		}},
		{"replaced memory", "has changed", func() {
			must(t, os.WriteFile(memory+".new", []byte("something else"), 0o600))
			must(t, os.Rename(memory+".new", memory))
		}},
		{"removed memory", "is gone", func() { must(t, os.Remove(memory)) }},
		{"removed state", "no template yet", func() { must(t, os.Remove(state)) }},
	} {
		damage.do()
		// Nothing is to be repaired behind the test's back.
		must(t, os.WriteFile(strings.TrimSuffix(state, ".state")+".failed", []byte("a test"), 0o600))
		r, cloned, reason := start(t, dir, hello, newID())
		r.expect(t, "hello\n", "", 0)
		if cloned || !strings.Contains(reason, damage.reason) {
			t.Errorf("%s: cloned %v, %q; want %q", damage.name, cloned, reason, damage.reason)
		}
		fmt.Fprintln(clone.in, damage.name)
		clone.out.wait(t, damage.name)
	}
	clone.in.Close()
	if status := clone.end(t); status != 0 {
		t.Errorf("the clone ended with %d: %s", status, clone.stderr.String())
	}
	buildTemplate(t, dir)
	if _, cloned, reason := start(t, dir, hello, newID()); !cloned {
		t.Errorf("after a new build: %q", reason)
	}
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %q, %v", pattern, files, err)
	}
	return files[0]
}

// TestTemplateUnique runs in two clones of one template, and on the host
// compares what they say: all that is random differs, and the time is right.
func TestTemplateUnique(t *testing.T) {
	if os.Getenv(inGuest) != "" {
		for name, value := range randomness(t) {
			fmt.Printf("random %s %x\n", name, value)
		}
		fmt.Printf("time %d\n", time.Now().UnixNano())
		return
	}
	noLeaks(t)
	dir := templates(t)
	buildTemplate(t, dir)
	b := bundleOfSelf(t, "TestTemplateUnique")
	seen := make(map[string]string) // value to the clone and source it came from
	for clone := range 2 {
		before := time.Now()
		r, cloned, reason := start(t, dir, b, newID())
		after := time.Now()
		if r.status != 0 || !cloned {
			t.Fatalf("cloned %v, %q; status %d, %s%s", cloned, reason, r.status, r.stdout, r.stderr)
		}
		sources := 0
		for line := range strings.Lines(r.stdout) {
			var name, value string
			var now int64
			if n, _ := fmt.Sscanf(line, "random %s %s", &name, &value); n == 2 {
				sources++
				from := fmt.Sprintf("clone %d, %s", clone, name)
				if other, again := seen[value]; again {
					t.Errorf("%s and %s are both %s", other, from, value)
				}
				seen[value] = from
			}
			if n, _ := fmt.Sscanf(line, "time %d", &now); n == 1 {
				sources++
				if at := time.Unix(0, now); at.Before(before.Add(-time.Second)) || at.After(after.Add(time.Second)) {
					t.Errorf("the clone's clock says %v, between %v and %v", at, before, after)
				}
			}
		}
		if sources != 9 {
			t.Errorf("%d sources: %s", sources, r.stdout)
		}
	}
}

// randomness draws from everything there is to draw from.
func randomness(t *testing.T) map[string][]byte {
	t.Helper()
	read := func(path string) []byte {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		b := make([]byte, 16)
		_, err = f.Read(b)
		must(t, err)
		return b
	}
	text := func(path string) []byte {
		b, err := os.ReadFile(path)
		must(t, err)
		return bytes.TrimSpace(b)
	}
	getrandom, goRandom := make([]byte, 16), make([]byte, 16)
	_, err := unix.Getrandom(getrandom, 0)
	must(t, err)
	rand.Read(goRandom)
	return map[string][]byte{
		"getrandom": getrandom,
		"urandom":   read("/dev/urandom"),
		"random":    read("/dev/random"),
		"uuid":      text("/proc/sys/kernel/random/uuid"),
		"boot_id":   text("/proc/sys/kernel/random/boot_id"),
		"AT_RANDOM": auxRandom(t),
		"go":        goRandom,
		"maphash":   binary.LittleEndian.AppendUint64(nil, maphash.String(maphash.MakeSeed(), "")),
	}
}

// auxRandom has the bytes that the kernel gave this program at its start.
func auxRandom(t *testing.T) []byte {
	t.Helper()
	const atRandom = 25
	auxv, err := os.ReadFile("/proc/self/auxv")
	must(t, err)
	for ; len(auxv) >= 16; auxv = auxv[16:] {
		if binary.LittleEndian.Uint64(auxv) != atRandom {
			continue
		}
		memory, err := os.Open("/proc/self/mem")
		must(t, err)
		defer memory.Close()
		b := make([]byte, 16)
		_, err = memory.ReadAt(b, int64(binary.LittleEndian.Uint64(auxv[8:])))
		must(t, err)
		return b
	}
	t.Fatal("no AT_RANDOM")
	return nil
}

// TestTemplateVerbs goes through build, list and prune.
func TestTemplateVerbs(t *testing.T) {
	dir := templates(t)
	runv(t, nil, "--templates", dir, "template", "list", "-f", "json").expect(t, "[]\n", "", 0)
	buildTemplate(t, dir)
	again := runv(t, nil, "--templates", dir, "template", "build", "--memory", "268435456", "--vcpus", "1")
	if again.status != 0 || !strings.HasSuffix(again.stdout, ": is there already\n") {
		t.Errorf("second build: %+v", again)
	}
	list := runv(t, nil, "--templates", dir, "template", "list")
	if list.status != 0 || strings.Count(list.stdout, "\n") != 2 || !strings.Contains(list.stdout, "256 MiB") {
		t.Errorf("list: %+v", list)
	}
	must(t, os.WriteFile(filepath.Join(dir, "old.memory"), []byte("of an interrupted build"), 0o600))
	runv(t, nil, "--templates", dir, "template", "prune").expect(t, "", "", 0)
	if _, err := os.Lstat(filepath.Join(dir, "old.memory")); err == nil {
		t.Error("prune leaves the rest of an interrupted build")
	}
	key := strings.TrimSuffix(filepath.Base(one(t, dir+"/*.state")), ".state")
	runv(t, nil, "--templates", dir, "template", "prune", "--all").expect(t, key+"\n", "", 0)
	if files, _ := filepath.Glob(dir + "/*.*"); len(files) != 0 {
		t.Errorf("prune --all leaves %q", files)
	}
	for _, args := range [][]string{{"template"}, {"template", "frob"}, {"--templates", "off", "template", "build"}, {"template", "build", "x"}} {
		if r := runv(t, nil, args...); r.status != 1 || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
