package devicefilter

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// run interprets a program, as far as compile makes them.
func run(t *testing.T, code []instruction, device, bits, majorNumber, minorNumber int64) bool {
	t.Helper()
	if code == nil {
		return true
	}
	words := map[int16]int64{0: bits<<16 | device, 4: majorNumber, 8: minorNumber}
	var r [11]int64
	for pc := 0; pc < len(code); pc++ {
		i := code[pc]
		dst, src, k := i.registers&15, i.registers>>4, int64(i.immediate)
		switch i.code {
		case opLoad:
			r[dst] = words[i.offset]
		case opCopy:
			r[dst] = r[src]
		case opSet:
			r[dst] = k
		case opAnd:
			r[dst] &= k
		case opShift:
			r[dst] >>= k
		case opUnless:
			if r[dst] != k {
				pc += int(i.offset)
			}
		case opIfAny:
			if r[dst]&k != 0 {
				pc += int(i.offset)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.offset)
		case opReturn:
			return r[result] == 1
		default:
			t.Fatalf("instruction %d: operation %#x", pc, i.code)
		}
	}
	t.Fatal("the program has no end")
	return false
}

func TestCompile(t *testing.T) {
	const c, b = unix.BPF_DEVCG_DEV_CHAR, unix.BPF_DEVCG_DEV_BLOCK
	number := func(n int64) *int64 { return &n }
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	kmsg := func(allow bool, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: number(1), Minor: number(11), Access: access}
	}
	type rules = []specs.LinuxDeviceCgroup
	for _, tt := range []struct {
		name         string
		rules        rules
		device, bits int64
		major, minor int64
		want         bool
	}{
		{"none: null", nil, c, read | write, 1, 3, true},
		{"none: a terminal", nil, c, read | write, 136, 77, true},
		{"none: node", nil, b, mknod, 8, 0, true},
		{"none: other", nil, c, read, 1, 11, false},
		{"none: block device with the number of null", nil, b, read, 1, 3, false},
		{"deny all: null", rules{denyAll}, c, read | write | mknod, 1, 3, true},
		{"deny all: other", rules{denyAll}, c, write, 1, 11, false},
		{"allow all", rules{denyAll, {Allow: true, Access: "rwm"}}, b, read | write | mknod, 8, 0, true},
		{"allow all, without access", rules{denyAll, {Allow: true, Type: "a"}}, b, read, 8, 0, true},
		{"allow all but one", rules{{Allow: true, Access: "rwm"}, kmsg(false, "rwm")}, c, read, 1, 11, false},
		{"allow all but one: another", rules{{Allow: true, Access: "rwm"}, kmsg(false, "rwm")}, c, read, 1, 12, true},
		{"one", rules{denyAll, kmsg(true, "rw")}, c, read | write, 1, 11, true},
		{"one: the minor beside it", rules{denyAll, kmsg(true, "rw")}, c, read | write, 1, 10, false},
		{"one: less access", rules{denyAll, kmsg(true, "r")}, c, read | write, 1, 11, false},
		{"one, in two rules", rules{denyAll, kmsg(true, "r"), kmsg(true, "w")}, c, read | write, 1, 11, true},
		{"one, half taken back", rules{denyAll, kmsg(true, "rw"), kmsg(false, "w")}, c, read | write, 1, 11, false},
		{"one, the other half", rules{denyAll, kmsg(true, "rw"), kmsg(false, "w")}, c, read, 1, 11, true},
		{"one, denied later", rules{denyAll, kmsg(true, "rw"), denyAll}, c, read, 1, 11, false},
		{"all of a major", rules{denyAll, {Allow: true, Type: "b", Major: number(8), Minor: number(-1), Access: "r"}}, b, read, 8, 200, true},
		{"null cannot be denied", rules{{Type: "c", Major: number(1), Minor: number(3), Access: "rwm"}}, c, read, 1, 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, err := compile(tt.rules)
			if err != nil {
				t.Fatal(err)
			}
			if code != nil {
				fd, err := load(code) // the kernel's verifier looks at jumps and registers
				if err != nil {
					t.Fatal(err)
				}
				unix.Close(fd)
			}
			if got := run(t, code, tt.device, tt.bits, tt.major, tt.minor); got != tt.want {
				t.Errorf("allowed: %v", got)
			}
		})
	}
}

func TestCompileErrors(t *testing.T) {
	huge := int64(1) << 31
	for _, tt := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
	}{
		{"type", []specs.LinuxDeviceCgroup{{Type: "x"}}},
		{"access", []specs.LinuxDeviceCgroup{{Access: "rwx"}}},
		{"number", []specs.LinuxDeviceCgroup{{Type: "c", Major: &huge}}},
		{"too many", make([]specs.LinuxDeviceCgroup, maxRules+1)},
	} {
		if _, err := compile(tt.rules); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
	}
}

func TestLoad(t *testing.T) {
	one, two := int64(1), int64(2)
	most := make([]specs.LinuxDeviceCgroup, maxRules)
	for i := range most {
		most[i] = specs.LinuxDeviceCgroup{Allow: i%2 == 0, Type: "b", Major: &one, Minor: &two, Access: []string{"r", "rw", "rwm"}[i%3]}
	}
	for name, rules := range map[string][]specs.LinuxDeviceCgroup{"none": nil, "most": most} {
		code, err := compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := load(code)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		unix.Close(fd)
	}
	if _, err := load([]instruction{{code: opReturn}}); err == nil {
		t.Error("a program without a result was loaded")
	}
}

func TestUninterrupted(t *testing.T) {
	for _, c := range []struct {
		name     string
		failures int
		errno    unix.Errno
		want     unix.Errno
		calls    int
	}{
		{"at once", 0, 0, 0, 1},
		{"signals", 7, unix.EAGAIN, 0, 8},
		{"an error", 1, unix.EPERM, unix.EPERM, 1},
		{"signals without end", 1 << 30, unix.EAGAIN, unix.EAGAIN, 1000},
	} {
		calls := 0
		fd, errno := uninterrupted(func() (uintptr, unix.Errno) {
			if calls++; calls <= c.failures {
				return 0, c.errno
			}
			return 5, 0
		})
		if errno != c.want || calls != c.calls || errno == 0 && fd != 5 {
			t.Errorf("%s: %d, %v after %d calls", c.name, fd, errno, calls)
		}
	}
}

// Only the first program stays loaded: more would add up.
func TestKeep(t *testing.T) {
	defer kept.Store(kept.Swap(0))
	for i, want := range []bool{true, false, false} {
		if got := keep(i); got != want {
			t.Errorf("program %d is kept: %v", i, got)
		}
	}
}
