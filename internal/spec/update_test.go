package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func resources(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	r := new(specs.LinuxResources)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func asJSON(t *testing.T, r *specs.LinuxResources) string {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const mib = 1 << 20

func TestUpdate(t *testing.T) {
	for _, tt := range []struct {
		name, before, change string
		hostMemory           uint64
		want                 []string // file=value on the host
		guest, undo, limits  string
	}{
		{
			name: "memory of a container without limits", before: `{}`, change: `{"memory":{"limit":104857600}}`,
			want:   []string{"memory.swap.max=max", "memory.max=369098752"}, // all RAM and 96 MiB
			guest:  `{"memory":{"limit":104857600}}`,
			undo:   `{"memory":{"limit":-1}}`,
			limits: `{"memory":{"limit":104857600}}`,
		},
		{
			name: "a lower limit leaves the host's", before: `{"memory":{"limit":104857600,"swap":209715200}}`, change: `{"memory":{"limit":52428800}}`,
			hostMemory: 280 * mib,
			want:       []string{"memory.max=293601280", "memory.swap.max=157286400"},
			guest:      `{"memory":{"limit":52428800}}`,
			undo:       `{"memory":{"limit":104857600}}`,
			limits:     `{"memory":{"limit":52428800,"swap":209715200}}`,
		},
		{
			name: "no memory limit any more", before: `{"memory":{"limit":104857600,"swap":209715200}}`, change: `{"memory":{"limit":-1}}`,
			hostMemory: 280 * mib,
			want:       []string{"memory.max=369098752", "memory.swap.max=max"},
			guest:      `{"memory":{"limit":-1}}`,
			undo:       `{"memory":{"limit":104857600}}`,
			limits:     `{"memory":{"limit":-1,"swap":-1}}`,
		},
		{
			name: "swap needs the limit there is", before: `{"memory":{"limit":104857600}}`, change: `{"memory":{"swap":104857601,"reservation":1000}}`,
			want:   []string{"memory.swap.max=1", "memory.low=1000"},
			guest:  `{"memory":{"reservation":1000}}`,
			undo:   `{"memory":{"reservation":-1}}`,
			limits: `{"memory":{"limit":104857600,"reservation":1000,"swap":104857601}}`,
		},
		{
			name: "a quota with the period there is", before: `{"cpu":{"quota":20000,"period":50000}}`, change: `{"cpu":{"quota":40000}}`,
			want:   []string{"cpu.max=40000 50000"},
			guest:  `{"cpu":{"quota":40000,"period":50000}}`,
			undo:   `{"cpu":{"quota":20000,"period":50000}}`,
			limits: `{"cpu":{"quota":40000,"period":50000}}`,
		},
		{
			name: "no quota any more", before: `{"cpu":{"quota":20000}}`, change: `{"cpu":{"quota":-1}}`,
			want:   []string{"cpu.max=max 100000"},
			guest:  `{"cpu":{"quota":-1,"period":100000}}`,
			undo:   `{"cpu":{"quota":20000,"period":100000}}`,
			limits: `{"cpu":{"quota":-1}}`,
		},
		{
			name: "a burst is out of the way of the quota", before: `{"cpu":{"quota":20000,"burst":15000}}`, change: `{"cpu":{"quota":10000,"burst":5000}}`,
			want:   []string{"cpu.max.burst=0", "cpu.max=10000 100000", "cpu.max.burst=5000"},
			guest:  `{"cpu":{"quota":10000,"burst":5000,"period":100000}}`,
			undo:   `{"cpu":{"quota":20000,"burst":15000,"period":100000}}`,
			limits: `{"cpu":{"quota":10000,"burst":5000}}`,
		},
		{
			name: "idle", before: `{"cpu":{"shares":2048}}`, change: `{"cpu":{"idle":1}}`,
			want: []string{"cpu.idle=1"}, guest: `{"cpu":{"idle":1}}`, undo: `{"cpu":{"idle":0}}`,
			limits: `{"cpu":{"shares":2048,"idle":1}}`,
		},
		{
			name: "not idle", before: `{"cpu":{"shares":1024,"idle":1}}`, change: `{"cpu":{"idle":0}}`,
			want: []string{"cpu.idle=0", "cpu.weight=39"}, guest: `{"cpu":{"shares":1024,"idle":0}}`, undo: `{"cpu":{"shares":1024,"idle":1}}`,
			limits: `{"cpu":{"shares":1024,"idle":0}}`,
		},
		{
			name: "pids", before: `{"pids":{"limit":10}}`, change: `{"pids":{"limit":20}}`,
			want: []string{"pids.max=276"}, guest: `{"pids":{"limit":20}}`, undo: `{"pids":{"limit":10}}`,
			limits: `{"pids":{"limit":20}}`,
		},
		{
			name: "no pids limit any more", before: `{"pids":{"limit":10}}`, change: `{"pids":{"limit":0}}`,
			want: []string{"pids.max=max"}, guest: `{"pids":{"limit":-1}}`, undo: `{"pids":{"limit":10}}`,
			limits: `{"pids":{"limit":0}}`,
		},
		{
			name: "the host alone", before: `{"pids":{"limit":10}}`, change: `{"cpu":{"cpus":"0-1","mems":"0"},"blockIO":{"weight":10},"unified":{"cpu.uclamp.min":"1"}}`,
			want:  []string{"cpuset.cpus=0-1", "cpuset.mems=0", "io.weight=1", "cpu.uclamp.min=1"},
			guest: `null`, undo: `null`, limits: `{"cpu":{"cpus":"0-1","mems":"0"},"pids":{"limit":10}}`,
		},
		{
			name: "a memory file by name", before: `{}`, change: `{"unified":{"memory.oom.group":"1","cpuset.cpus":"0"}}`,
			want:  []string{"cpuset.cpus=0", "memory.oom.group=1"},
			guest: `{"unified":{"memory.oom.group":"1"}}`, undo: `null`, limits: `{}`,
		},
		{
			name: "limits by name", before: `{"pids":{"limit":10}}`, change: `{"unified":{"pids.max":"20","cpu.max":"50000 100000","memory.high":"1000000"}}`,
			want: []string{"cpu.max=50000 100000", "pids.max=276"}, guest: `{"cpu":{"quota":50000,"period":100000},"pids":{"limit":20},"unified":{"memory.high":"1000000"}}`,
			undo: `{"cpu":{"quota":-1,"period":100000},"pids":{"limit":10}}`, limits: `{"cpu":{"quota":50000,"period":100000},"pids":{"limit":20}}`,
		},
		{
			name: "zeros and devices", before: `{"cpu":{"quota":20000},"memory":{"limit":104857600}}`,
			change: `{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{"shares":0,"quota":0,"cpus":""},"blockIO":{"weight":0},"devices":[{"allow":false,"access":"rwm"}]}`,
			guest:  `null`, undo: `null`, limits: `{"cpu":{"quota":20000},"memory":{"limit":104857600}}`,
		},
	} {
		now := Running{Machine: Machine{VCPUs: 2, MemoryBytes: 256 * mib}, Limits: Limits(resources(t, tt.before)), HostMemory: tt.hostMemory}
		u, err := NewUpdate(now, resources(t, tt.change), host)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, f := range u.Cgroup {
			got = append(got, f.Name+"="+f.Value)
			if f.Name != "memory.max" && f.Lifts != (f.Value == unlimited[f.Name]) {
				t.Errorf("%s: %+v", tt.name, f)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: host %q; want %q", tt.name, got, tt.want)
		}
		for _, part := range []struct {
			name string
			got  *specs.LinuxResources
			want string
		}{{"guest", u.Guest, tt.guest}, {"undo", u.Undo, tt.undo}, {"limits", u.Limits, tt.limits}} {
			want := part.want
			if want != "null" {
				want = asJSON(t, resources(t, want))
			}
			if text := asJSON(t, part.got); text != want {
				t.Errorf("%s: %s %s; want %s", tt.name, part.name, text, want)
			}
		}
	}
}

func TestUpdateRefused(t *testing.T) {
	for _, tt := range []struct{ before, change, want string }{
		{`{}`, `{"memory":{"limit":268435456}}`, "more than the VM can give: it has 256 MiB of RAM"},
		{`{"memory":{"limit":536870912}}`, `{"memory":{"limit":536870913}}`, "more than the VM can give"},
		{`{}`, `{"cpu":{"quota":250000}}`, "more than the VM's 2 vCPUs"},
		{`{"cpu":{"quota":100000}}`, `{"cpu":{"period":10000}}`, "100000 in periods of 10000 microseconds is more"},
		{`{"memory":{"limit":104857600,"swap":104857600}}`, `{"memory":{"limit":115343360}}`, "below the memory limit"},
		{`{"cpu":{"burst":20000}}`, `{"cpu":{"quota":10000}}`, "more than the quota"},
		{`{}`, `{"cpu":{"realtimeRuntime":1}}`, "no realtime"},
		{`{}`, `{"cpu":{"period":5}}`, "outside 1000"},
		{`{}`, `{"cpu":{"cpus":"x"}}`, "not a list"},
		{`{}`, `{"blockIO":{"weight":5}}`, "outside 10..1000"},
		{`{}`, `{"hugepageLimits":[{"pageSize":"2MB","limit":1}]}`, "no huge page"},
		{`{}`, `{"unified":{"memory.max":"256M"}}`, "more than the VM can give"},
		{`{}`, `{"memory":{"kernelTCP":1}}`, "no such limit"},
		{`{}`, `{"cpu":{"idle":2,"period":5}}`, "2 problems"},
	} {
		now := Running{Machine: Machine{VCPUs: 2, MemoryBytes: 256 * mib}, Limits: resources(t, tt.before)}
		if _, err := NewUpdate(now, resources(t, tt.change), host); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, then %s: %v; want %q", tt.before, tt.change, err, tt.want)
		}
	}
}

// TestUpdateFits: what a VM was created with can be asked for again.
func TestUpdateFits(t *testing.T) {
	small := Host{CPUs: 2, MemoryBytes: 1 << 30}
	for _, tt := range []struct {
		machine        Machine
		before, change string
	}{
		// The host has no more processors than the VM.
		{Machine{VCPUs: 2, MemoryBytes: 256 * mib}, `{}`, `{"cpu":{"quota":800000}}`},
		// An annotation made the VM smaller than its limits.
		{Machine{VCPUs: 1, MemoryBytes: 64 * mib}, `{"memory":{"limit":104857600},"cpu":{"quota":200000}}`, `{"memory":{"limit":104857600},"cpu":{"quota":200000}}`},
		{Machine{VCPUs: 1, MemoryBytes: 64 * mib}, `{"memory":{"limit":104857600}}`, `{"memory":{"limit":94371840}}`},
	} {
		if _, err := NewUpdate(Running{Machine: tt.machine, Limits: resources(t, tt.before)}, resources(t, tt.change), small); err != nil {
			t.Errorf("%+v: %s, then %s: %v", tt.machine, tt.before, tt.change, err)
		}
	}
	u, err := NewUpdate(Running{Machine: Machine{2, 256 * mib}, Limits: resources(t, `{"memory":{"limit":1048576}}`)}, resources(t, `{"memory":{"limit":-1}}`), host)
	if err != nil || len(u.Warnings) != 1 || !strings.Contains(u.Warnings[0], "keeps its 256 MiB") {
		t.Errorf("a lifted memory limit: %+v, %v", u, err)
	}
	u, err = NewUpdate(Running{Machine: Machine{2, 256 * mib}}, resources(t, `{"memory":{"limit":1048576,"checkBeforeUpdate":true}}`), host)
	if err != nil || u.CheckMemory != mib {
		t.Errorf("checkBeforeUpdate: %+v, %v", u, err)
	}
	for _, ram := range []uint64{64 * mib, 66 * mib, 256 * mib, 2 << 30, 1 << 40} {
		if limit := workloadMemory(ram); limit > 0 && neededRAM(limit) > ram || neededRAM(limit+4*mib) <= ram {
			t.Errorf("workloadMemory(%d) = %d", ram, limit)
		}
	}
}
