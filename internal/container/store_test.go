package container

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "A-b_c.d+1", "..a", strings.Repeat("x", 255)} {
		if err := CheckID(id); err != nil {
			t.Errorf("CheckID(%q) = %v; want nil", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a b", "a\x00", "é", "a\n", strings.Repeat("x", 256)} {
		if err := CheckID(id); err == nil {
			t.Errorf("CheckID(%q) = nil; want an error", id)
		}
	}
}

func TestParseStat(t *testing.T) {
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	for _, name := range []string{"runv", "a b", ") R 1 (", "((", "x)"} {
		state, start, err := parseStat([]byte("42 (" + name + ")" + fields))
		if err != nil || state != 'S' || start != 777 {
			t.Errorf("parseStat with command %q = %c, %d, %v; want S, 777, nil", name, state, start, err)
		}
	}
	for _, bad := range []string{"", "42 (x", "42 (x)", "42 (x) S 1 2", "42 (x) SS" + fields[2:], "42 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) succeeded", bad)
		}
	}
}

func TestProcessAlive(t *testing.T) {
	self, err := FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this process is not alive")
	}
	if (Process{PID: self.PID, StartTime: self.StartTime + 1}).Alive() {
		t.Error("a process with another start time is alive: a reused pid would be taken for the container")
	}
	if (Process{}).Alive() || (Process{PID: -1}).Alive() {
		t.Error("no process is alive")
	}

	// A zombie no longer runs.
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !child.Alive() {
		t.Error("the child is not alive")
	}
	in.Close()
	waitZombie(t, child.PID)
	if child.Alive() {
		t.Error("a zombie is alive")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if child.Alive() {
		t.Error("a reaped process is alive")
	}
}

// waitZombie waits for the exit of a child without reaping it.
func waitZombie(t *testing.T, pid int) {
	t.Helper()
	for {
		state, _, err := readStat(pid)
		if err != nil {
			t.Fatal(err)
		}
		if state == 'Z' {
			return
		}
	}
}

func TestLifecycle(t *testing.T) {
	store := NewStore(filepath.Join(t.TempDir(), "deep", "root"))
	c, err := store.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	self, err := FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	c.State.Status = specs.StateCreating
	c.State.Creator = self
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	expect := func(want specs.ContainerState) {
		t.Helper()
		s, err := store.Peek("one")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.OCI().Status; got != want {
			t.Errorf("status %s; want %s", got, want)
		}
		if pid := s.OCI().Pid; (pid != 0) != (want == specs.StateCreated || want == specs.StateRunning || want == StatePaused) {
			t.Errorf("status %s has pid %d", want, pid)
		}
	}
	expect(specs.StateCreating)
	if _, err := store.Create("one"); !errors.Is(err, ErrExist) {
		t.Errorf("create twice: %v; want ErrExist", err)
	}
	c.State.Creator.StartTime++
	c.save(t)
	expect(specs.StateStopped)
	c.State.Status, c.State.Process = specs.StateCreated, self
	c.save(t)
	expect(specs.StateCreated)
	c.State.Status = specs.StateRunning
	c.save(t)
	expect(specs.StateRunning)
	freezer := filepath.Join(t.TempDir(), "cgroup.freeze")
	c.State.Cgroup = filepath.Dir(freezer)
	c.save(t)
	expect(specs.StateRunning)
	for frozen, want := range map[string]specs.ContainerState{"1\n": StatePaused, "0\n": specs.StateRunning} {
		if err := os.WriteFile(freezer, []byte(frozen), 0o644); err != nil {
			t.Fatal(err)
		}
		expect(want)
	}
	if err := os.WriteFile(freezer, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.State.Process.StartTime++
	c.save(t)
	expect(specs.StateStopped)

	states, damaged, err := store.List()
	if err != nil || len(states) != 1 || len(damaged) != 0 {
		t.Errorf("List() = %v, %v, %v; want one state", states, damaged, err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Errorf("Remove twice: %v", err)
	}
	if _, err := store.Open("one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("open after removal: %v; want ErrNotExist", err)
	}
	if _, err := store.Peek("one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("peek after removal: %v; want ErrNotExist", err)
	}
	if _, err := store.Create("one"); err != nil {
		t.Errorf("create after removal: %v", err)
	}
}

func (c *Container) save(t *testing.T) {
	t.Helper()
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
}

func TestLeftovers(t *testing.T) {
	root := t.TempDir()
	store := NewStore(root)
	for name, content := range map[string]string{"empty": "", "half": `{"id":"half","pi`, "other": `{"id":"someone"}`} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name, stateName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := store.Open(name)
		if !errors.Is(err, ErrDamaged) || c == nil {
			t.Fatalf("Open(%s) = %v, %v; want a container and ErrDamaged", name, c, err)
		}
		if err := c.Unlock(); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Create(name); !errors.Is(err, ErrExist) {
			t.Errorf("Create(%s) over a damaged state: %v; want ErrExist", name, err)
		}
	}
	if _, damaged, err := store.List(); err != nil || len(damaged) != 3 {
		t.Errorf("List() has %d damaged, %v; want 3", len(damaged), err)
	}
	c, err := store.Open("half")
	if !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Errorf("remove a damaged container: %v", err)
	}

	// A create that died before it wrote anything is taken over, but not while
	// it still holds its lock.
	first, err := store.Create("fresh")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create("fresh"); !errors.Is(err, ErrExist) {
		t.Errorf("Create() of a locked one: %v; want ErrExist", err)
	}
	if err := first.Unlock(); err != nil {
		t.Fatal(err)
	}
	if c, err := store.Open("fresh"); !errors.Is(err, ErrIncomplete) || c == nil {
		t.Errorf("Open() of an empty directory: %v; want ErrIncomplete", err)
	} else {
		c.Unlock()
	}
	if _, err := store.Create("fresh"); err != nil {
		t.Errorf("Create() over an empty directory: %v", err)
	}
}

func TestLockWaitsOutRemoval(t *testing.T) {
	store := NewStore(t.TempDir())
	c, err := store.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	c.save(t)
	result := make(chan error, 1)
	go func() {
		_, err := store.Open("x")
		result <- err
	}()
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrNotExist) {
		t.Errorf("Open() that waited for a removal: %v; want ErrNotExist", err)
	}
}
