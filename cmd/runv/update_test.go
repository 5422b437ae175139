package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "-1": -1, "4096": 4096, "1k": 1024, "2K": 2048, "64m": 64 << 20, "64MB": 64 << 20, "64MiB": 64 << 20,
		"1.5g": 3 << 29, "1 GiB": 1 << 30, "1t": 1 << 40, "7b": 7,
	} {
		if got, err := parseBytes(in); got != want || err != nil {
			t.Errorf("parseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-2", "1x", "1mm", "1e3", "0x10", "1.2.3", "1ki", "9999999p", "inf", "NaN", "--1"} {
		if got, err := parseBytes(in); err == nil {
			t.Errorf("parseBytes(%q) = %d; want an error", in, got)
		}
	}
}

// change runs the flags of update and has what they ask for.
func change(args ...string) (r *specs.LinuxResources, err error) {
	var g globals
	command := updateCommand(&g)
	command.Action = func(c *cli.Context) error {
		r, err = changeOf(c)
		return nil
	}
	app := &cli.App{Commands: []*cli.Command{command}}
	if err := app.Run(append([]string{"runv", "update"}, args...)); err != nil {
		return nil, err
	}
	return r, err
}

func TestUpdateFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(file, []byte(`{"memory":{"limit":7}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"memory":{"limit":"7"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"--memory 64m --memory-swap -1 --memory-reservation 1k", `{"memory":{"limit":67108864,"reservation":1024,"swap":-1}}`},
		{"--cpu-quota -1 --cpu-period 0 --cpu-burst 5 --cpu-share 2", `{"cpu":{"shares":2,"quota":-1,"burst":5,"period":0}}`},
		{"--cpuset-cpus 0-1 --cpuset-mems 0 --cpu-idle 1", `{"cpu":{"cpus":"0-1","mems":"0","idle":1}}`},
		{"--cpu-rt-period 1 --cpu-rt-runtime 2", `{"cpu":{"realtimeRuntime":2,"realtimePeriod":1}}`},
		{"--pids-limit -1", `{"pids":{"limit":-1}}`},
		{"--blkio-weight 500", `{"blockIO":{"weight":500}}`},
		{"--kernel-memory 1 --kernel-memory-tcp 2", `{"memory":{"kernel":1,"kernelTCP":2}}`},
		{"-r " + file, `{"memory":{"limit":7}}`},
	} {
		r, err := change(strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		// Empty parts say nothing.
		got := new(specs.LinuxResources)
		*got = *r
		if r.CPU != nil && *r.CPU == (specs.LinuxCPU{}) {
			got.CPU = nil
		}
		if r.Memory != nil && *r.Memory == (specs.LinuxMemory{}) {
			got.Memory = nil
		}
		if r.Pids != nil && r.Pids.Limit == nil {
			got.Pids = nil
		}
		if r.BlockIO != nil && r.BlockIO.Weight == nil {
			got.BlockIO = nil
		}
		data, err := json.Marshal(got)
		if err != nil || string(data) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.args, data, err, tt.want)
		}
	}
	for args, want := range map[string]string{
		"":                        "no limit is given",
		"--memory much":           `--memory "much": not a value`,
		"--memory 999999999p":     "out of range",
		"--cpu-quota 1s":          `--cpu-quota "1s": not a value`,
		"--cpu-share -1":          `--cpu-share "-1": not a value`,
		"--blkio-weight 70000":    "out of range",
		"--pids-limit 1.5":        `--pids-limit "1.5": not a value`,
		"--l3-cache-schema L3:0=": "RDT",
		"--mem-bw-schema MB:0=":   "RDT",
		"--memory 1 -r " + file:   "exclude each other",
		"-r /nonexistent":         "no such file",
		"-r " + bad:               "not linux.resources as JSON",
		"-r /dev/null":            "not linux.resources as JSON",
	} {
		if r, err := change(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", args, r, err, want)
		}
	}
	for _, text := range []string{"null", "[]", "7", "{} {}", `{"cpu":{"shares":-1}}`} {
		if r, err := readResources(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %+v", text, r)
		}
	}
}
