package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// makeBundle makes a bundle whose container runs until it is killed.
func makeBundle(runv, dir string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("install busybox-static: %w", err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	if out, err := exec.Command(runv, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%s spec: %w: %s", runv, err, out)
	}
	name := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var config struct {
		Process, Root, Linux map[string]any
		rest                 map[string]any
	}
	if err := errors.Join(json.Unmarshal(data, &config), json.Unmarshal(data, &config.rest)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	config.Process["terminal"] = false
	config.Process["args"] = []string{"sleep", "100000"}
	config.Root["readonly"] = false
	config.Linux["cgroupsPath"] = "/runv-chaos/" + id
	config.rest["process"], config.rest["root"], config.rest["linux"] = config.Process, config.Root, config.Linux
	config.rest["annotations"] = map[string]string{"run.oci.runv.memory": "256MiB", "run.oci.runv.vcpus": "1"}
	if data, err = json.Marshal(config.rest); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

// processes are the ids of the runtime's processes of a kind, for this
// container.
func (w *world) processes(kind string) []int {
	var pids []int
	for pid, line := range commandLines() {
		if slices.Equal(line[:min(3, len(line))], []string{"runv", kind, id}) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// commandLines has the command lines of all processes.
func commandLines() map[int][]string {
	lines := make(map[int][]string)
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, name := range names {
		line, err := os.ReadFile(name)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && len(line) > 0 {
			lines[pid] = strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		}
	}
	return lines
}

// things are what a lifecycle may leave behind.
func (w *world) things() (map[string]bool, error) {
	t := make(map[string]bool)
	for pid, line := range commandLines() {
		if line[0] == w.runv || line[0] == "runv" && len(line) > 2 && line[2] == id {
			t[fmt.Sprintf("process %d: %q", pid, line)] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(mounts) {
		t["mount "+string(bytes.TrimSpace(line))] = true
	}
	for _, dir := range []string{"/sys/fs/cgroup", w.root, w.bundle} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			// Those of others come and go meanwhile.
			if err == nil && (d.IsDir() || dir != "/sys/fs/cgroup") {
				t["file "+path] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		// Of a descriptor only where it leads counts: numbers are used again.
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "anon_inode:") {
			t["descriptor of chaos: "+target] = true
		}
	}
	return t, nil
}

// nothingLeft compares with what was there before. What dies after its killer
// gets time to.
func (w *world) nothingLeft(before map[string]bool) error {
	deadline := time.Now().Add(limit)
	for {
		after, err := w.things()
		if err != nil {
			return err
		}
		var left []string
		for thing := range after {
			if !before[thing] {
				left = append(left, thing)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			slices.Sort(left)
			return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
