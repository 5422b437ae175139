package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm/kvm"
	"runv.dev/runv/vmm/snapshot"
)

var contents = bytes.Repeat([]byte("page"), 1024)

// pair has the two ends of agent.sock.
func pair(t *testing.T) (client, vm *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// serve is a VM process that saves: what it is told about the end.
func serve(t *testing.T, vm *net.UnixConn, a Answer) <-chan bool {
	end := make(chan bool, 1)
	go func() {
		memory, state, err := Accept(vm)
		if err != nil {
			t.Error(err)
			vm.Close()
			end <- false
			return
		}
		defer memory.Close()
		defer state.Close()
		sum := sha256.Sum256(contents)
		m := &snapshot.Machine{MemoryBytes: 64 << 20, VCPUs: make([]kvm.VCPUState, 2)}
		m.Memory.Extents = []snapshot.Extent{{Offset: 4096, Length: uint64(len(contents))}}
		m.VCPUs[0].XSave, m.VCPUs[1].XSave = make([]byte, 4096), make([]byte, 4096)
		data, err := Encode(m, "web1", sum[:])
		if err != nil {
			t.Error(err)
		}
		memory.Write(contents)
		state.Write(data)
		said, err := Reply(vm, a)
		if err != nil {
			t.Error(err)
		}
		end <- said
	}()
	return end
}

func TestSave(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    bool
		answer Answer
	}{
		{"ends", true, Answer{Warnings: []string{"2 TCP connections"}}},
		{"goes on", false, Answer{}},
		{"fails", true, Answer{Error: "an open file is gone"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			client, vm := pair(t)
			ended := serve(t, vm, tc.answer)
			warnings, err := Save(client, dir, tc.end)
			client.Close()
			if got := <-ended; got != (tc.end && tc.answer.Error == "") {
				t.Errorf("the container was told to end: %v", got)
			}
			if tc.answer.Error != "" {
				if err == nil || err.Error() != tc.answer.Error {
					t.Errorf("error %v", err)
				}
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
					t.Errorf("left: %v, %v", entries, err)
				}
				return
			}
			if err != nil || len(warnings) != len(tc.answer.Warnings) {
				t.Fatalf("%v, %v", warnings, err)
			}
			for _, name := range []string{stateName, memoryName, markerName} {
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
			i, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if i.ID != "web1" || len(i.Machine.VCPUs) != 2 {
				t.Errorf("%q with %d processors", i.ID, len(i.Machine.VCPUs))
			}
			if err := i.Check(); !errors.Is(err, snapshot.ErrDamaged) {
				t.Errorf("memory that was not read: %v", err)
			}
			got, err := io.ReadAll(i.Snapshot().Copy)
			if err != nil || !bytes.Equal(got, contents) {
				t.Errorf("%d bytes of memory, %v", len(got), err)
			}
			if err := i.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSaveLost: a VM process that dies leaves no image, and none is replaced.
func TestSaveLost(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{stateName, memoryName} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("earlier"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, vm := pair(t)
	go func() {
		memory, state, err := Accept(vm)
		if err == nil {
			memory.Close()
			state.Close()
		}
		vm.Close()
	}()
	if _, err := Save(client, dir, true); err == nil {
		t.Error("saved by a VM process that is gone")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestAcceptRefuses(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	for name, tc := range map[string]struct {
		data []byte
		fds  []int
	}{
		"no files":     {[]byte{request}, nil},
		"one file":     {[]byte{request}, []int{fd}},
		"three files":  {[]byte{request}, []int{fd, fd, fd}},
		"many files":   {[]byte{request}, []int{fd, fd, fd, fd, fd, fd, fd, fd}},
		"another byte": {[]byte{'x'}, []int{fd, fd}},
	} {
		t.Run(name, func(t *testing.T) {
			client, vm := pair(t)
			if _, _, err := client.WriteMsgUnix(tc.data, unix.UnixRights(tc.fds...), nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Accept(vm); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"nothing there":        {func(dir string) error { return os.Remove(filepath.Join(dir, stateName)) }, "no checkpoint"},
		"no memory":            {func(dir string) error { return os.Remove(filepath.Join(dir, memoryName)) }, "no such file"},
		"others could write":   {func(dir string) error { return os.Chmod(filepath.Join(dir, memoryName), 0o622) }, "others could"},
		"another's":            {func(dir string) error { return os.Chown(filepath.Join(dir, stateName), 1, 1) }, "belongs to user 1"},
		"a short memory":       {func(dir string) error { return os.Truncate(filepath.Join(dir, memoryName), 4095) }, "damaged"},
		"a state that is cut":  {func(dir string) error { return os.Truncate(filepath.Join(dir, stateName), 100) }, "damaged"},
		"a link":               {func(dir string) error { return link(dir) }, "too many levels"},
		"a FIFO for the state": {func(dir string) error { return fifo(dir) }, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			client, vm := pair(t)
			ended := serve(t, vm, Answer{})
			if _, err := Save(client, dir, true); err != nil {
				t.Fatal(err)
			}
			<-ended
			if err := tc.change(dir); err != nil {
				t.Fatal(err)
			}
			i, err := Open(dir)
			if err == nil {
				i.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
		})
	}
}

func link(dir string) error {
	path := filepath.Join(dir, stateName)
	return errors.Join(os.Rename(path, path+"-2"), os.Symlink(path+"-2", path))
}

func fifo(dir string) error {
	path := filepath.Join(dir, stateName)
	return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))
}
