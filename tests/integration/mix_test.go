//go:build integration && sockets

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mixLooks is how often the VM process is looked at.
const mixLooks = 20

// vmUse is what a VM process has at a moment.
type vmUse struct {
	memory, descriptors, threads, goroutines, connections uint64
}

func useOf(t *testing.T, id string) vmUse {
	t.Helper()
	e := statsOf(t, id)
	proc := fmt.Sprintf("/proc/%d/", e.Data.VM.PID)
	status, err := os.ReadFile(proc + "status")
	must(t, err)
	field := func(name string) uint64 {
		_, after, _ := strings.Cut(string(status), "\n"+name+":")
		n, err := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
		must(t, err)
		return n
	}
	fds, err := os.ReadDir(proc + "fd")
	must(t, err)
	u := vmUse{memory: field("RssAnon") + field("RssShmem"), descriptors: uint64(len(fds)), threads: field("Threads")}
	u.goroutines, u.connections = e.Data.VM.Network.Goroutines, e.Data.VM.Network.Connections
	return u
}

// TestMix has short connections of every kind made between a guest and its
// namespace, both ways, for RUNV_TEST_MIX seconds: all of them go as they
// should, and in the second half the VM process has no more than in the first.
func TestMix(t *testing.T) {
	noLeaks(t)
	seconds := 60
	if s := os.Getenv("RUNV_TEST_MIX"); s != "" {
		var err error
		seconds, err = strconv.Atoi(s)
		must(t, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second+4*limit)
	defer cancel()
	name, id := tsiNetns(t), newID()
	args := func(own, peer string) []string {
		return []string{"mix", own, peer, "10.9.8.7", strconv.Itoa(seconds)}
	}
	b := inBackground(t, "run", "-b", bundle(t, append([]string{"/tsi"}, args("5400", "5401")...), inTSI(t, name)), id)
	native := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", name, tsiProgram(t)}, args("5401", "5400")...)...)
	var said strings.Builder
	native.Stdout, native.Stderr = &said, &said
	must(t, native.Start())

	b.out.wait(t, "mix: with")
	var uses []vmUse
	tick := time.NewTicker(time.Duration(seconds) * time.Second * 9 / 10 / mixLooks)
	defer tick.Stop()
	for range mixLooks {
		<-tick.C
		u := useOf(t, id)
		t.Logf("%+v", u)
		uses = append(uses, u)
	}
	nativeErr := native.Wait()
	left := ""
	for line := range b.out.lines {
		t.Log("guest:", line)
		left = line
	}
	if status := b.end(t); status != 0 || left != "sockets: 0 left" {
		t.Errorf("the guest: status %d, %q: %s", status, left, b.stderr.String())
	}
	t.Logf("native: %s", said.String())
	if nativeErr != nil || !strings.HasSuffix(said.String(), "sockets: 0 left\n") {
		t.Errorf("the namespace: %v", nativeErr)
	}
	first, second := mostOf(uses[:mixLooks/2]), mostOf(uses[mixLooks/2:])
	t.Logf("at most, first half: %+v, second: %+v", first, second)
	for _, c := range []struct {
		what           string
		before, after  uint64
		factor, offset uint64 // in percent, in units
	}{
		{"KiB of memory", first.memory, second.memory, 105, 8 << 10},
		{"descriptors", first.descriptors, second.descriptors, 150, 50},
		{"threads", first.threads, second.threads, 100, 8},
		{"goroutines", first.goroutines, second.goroutines, 150, 100},
	} {
		if c.after > c.before*c.factor/100+c.offset {
			t.Errorf("%s: %d, and then %d", c.what, c.before, c.after)
		}
	}
}

func mostOf(list []vmUse) (most vmUse) {
	for _, u := range list {
		most.memory = max(most.memory, u.memory)
		most.descriptors = max(most.descriptors, u.descriptors)
		most.threads = max(most.threads, u.threads)
		most.goroutines = max(most.goroutines, u.goroutines)
		most.connections = max(most.connections, u.connections)
	}
	return most
}
