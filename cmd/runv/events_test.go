package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/container"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/internal/tsi"
)

// fakeCgroup is the cgroup of a VM process.
func fakeCgroup(t *testing.T, frozen string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"cgroup.freeze":         frozen,
		"cpu.stat":              "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
		"cpu.pressure":          "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n",
		"cpuset.cpus.effective": "0-1\n",
		"io.stat":               "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n",
		"memory.current":        "1000\n", "memory.peak": "2000\n", "memory.max": "3000\n",
		"memory.stat": "anon 900\nfile 100\n", "memory.events": "oom 0\noom_kill 0\n",
		"memory.swap.current": "5\n", "memory.swap.max": "max\n",
		"pids.current": "14\n", "pids.max": "max\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func testState(t *testing.T, frozen string) *container.State {
	t.Helper()
	self, err := container.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &container.State{
		ID: "x", Status: specs.StateRunning, Process: self,
		Cgroup: fakeCgroup(t, frozen), Machine: spec.Machine{VCPUs: 2, MemoryBytes: 1 << 28},
	}
}

func testFigures() *figures {
	return &figures{network: &tsi.Stats{Connections: 3, BytesSent: 9}, Stats: &client.Stats{
		CPU: client.CPUStats{Usage: 7 * time.Microsecond, User: 5 * time.Microsecond, System: 2 * time.Microsecond, Periods: 1},
		Memory: client.MemoryStats{
			Current: 100, Peak: 200, Limit: client.NoLimit, SwapLimit: 10,
			Stat: map[string]uint64{"file": 40, "anon": 60}, Events: map[string]uint64{"oom_kill": 1},
		},
		Pids: client.PidsStats{Current: 3, Limit: 50},
	}}
}

// TestStatsEvent compares with what a program that knows runc's events reads.
func TestStatsEvent(t *testing.T) {
	const host = `"cpu":{"usage":{"total":30000,"kernel":10000,"user":20000},` +
		`"throttling":{"periods":4,"throttledPeriods":3,"throttledTime":2000},` +
		`"psi":{"some":{"avg10":1.5,"avg60":0,"avg300":0,"total":9},"full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}},` +
		`"cpuset":{"cpus":[0,1],"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,` +
		`"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},`
	const blkio = `"blkio":{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Write","value":2}],` +
		`"ioServicedRecursive":[{"major":8,"op":"Read","value":3},{"major":8,"op":"Write","value":4}]},` +
		`"hugetlb":{},"intel_rdt":{},"network_interfaces":null,`
	const vm = `"vcpus":2,"ram":268435456,"memory":{"cache":100,"usage":{"limit":3000,"usage":1000,"max":2000,"failcnt":0},` +
		`"swap":{"limit":18446744073709551615,"usage":1005,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0},` +
		`"raw":{"anon":900,"file":100},"event_count":{}},"pids":{"current":14}`
	const guest = `"memory":{"cache":40,"usage":{"limit":18446744073709551615,"usage":100,"max":200,"failcnt":0},` +
		`"swap":{"limit":18446744073709551615,"usage":100,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0},` +
		`"raw":{"anon":60,"file":40},"event_count":{"oom_kill":1}},"pids":{"current":3,"limit":50},`
	for _, tt := range []struct {
		name, frozen string
		guest        *figures
		want         string
	}{
		{"running", "0", testFigures(), host + guest + blkio + `"vm":{"status":"running","pid":PID,` + vm +
			`,"guest_cpu":{"usage":{"total":7000,"kernel":2000,"user":5000},"throttling":{"periods":1}},` +
			`"network":{"sockets":0,"connections":3,"listeners":0,"datagrams":0,"connected":0,"accepted":0,"failed":0,"bytesSent":9,"bytesReceived":0,` +
			`"datagramsSent":0,"datagramsReceived":0,"refused":0,"malformed":0,"dropped":0,"exhausted":0,"goroutines":0}}`},
		{"paused", "1", nil, host + blkio + `"vm":{"status":"paused","pid":PID,` + vm + `}`},
	} {
		var out bytes.Buffer
		s := testState(t, tt.frozen)
		w := &watch{state: s, out: json.NewEncoder(&out)}
		if err := w.stats(tt.guest); err != nil {
			t.Fatal(err)
		}
		pid, err := json.Marshal(s.Process.PID)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"type":"stats","id":"x","data":{` + strings.ReplaceAll(tt.want, "PID", string(pid)) + "}}\n"
		if out.String() != want {
			t.Errorf("%s:\n%s; want\n%s", tt.name, out.String(), want)
		}
	}
}

// TestPausedIsNotAsked: the agent of a paused container cannot answer.
func TestPausedIsNotAsked(t *testing.T) {
	w := &watch{state: testState(t, "1")} // without a runtime to ask with
	if guest, err := w.figures(t.Context()); guest != nil || err != nil {
		t.Errorf("figures() = %v, %v", guest, err)
	}
}

func TestOOMEvents(t *testing.T) {
	var out bytes.Buffer
	w := &watch{state: testState(t, "0"), out: json.NewEncoder(&out)}
	told := testFigures()
	for _, step := range []struct {
		guest *figures
		kills uint64
		want  bool
	}{
		{told, 1, true}, {told, 1, false}, {nil, 0, false}, {told, 3, true},
	} {
		told.Memory.Events["oom_kill"] = step.kills
		if got := w.oomKills(step.guest); got != step.want {
			t.Errorf("oomKills() with %d = %v", step.kills, got)
		}
	}
	for _, tt := range []struct {
		name  string
		known uint64 // kills that were told
		last  []bool // what the guest said at the end
		host  string
		want  string
	}{
		{"without", 0, []bool{false}, "oom_kill 0\n", ""},
		{"the VM was gone", 0, nil, "oom_kill 0\n", ""},
		{"the last process", 0, []bool{true}, "oom_kill 0\n", `{"type":"oom","id":"x"}` + "\n"},
		{"told before", 2, []bool{true}, "oom_kill 0\n", ""},
		{"the VM", 0, nil, "oom_kill 1\n", `{"type":"oom","id":"x"}` + "\n"},
	} {
		out.Reset()
		w := &watch{state: testState(t, "0"), out: json.NewEncoder(&out)}
		w.kills.guest = tt.known
		if err := os.WriteFile(filepath.Join(w.state.Cgroup, "memory.events"), []byte(tt.host), 0o644); err != nil {
			t.Fatal(err)
		}
		last := make(chan bool, 1)
		for _, killed := range tt.last {
			last <- killed
		}
		close(last)
		if err := w.end(last); err != nil || out.String() != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, out.String(), err, tt.want)
		}
	}
}
