package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bootMemory is the RAM, in MiB, of the machines whose boot is measured.
const bootMemory = 512

// boot measures boots of runv, by stage, and of QEMU's microvm machine with the
// same kernel and root, in turns.
func boot(ctx context.Context, b *bench) error {
	if b.kernel == "" || b.initrd == "" {
		return errors.New("boot: want --kernel and --initrd")
	}
	q := qemu{b.kernel, b.initrd, bootMemory}
	for _, file := range []*string{&q.kernel, &q.initrd} {
		to := filepath.Join(b.dir, "guest-"+filepath.Base(*file))
		if err := copyFile(to, *file, 0o644); err != nil {
			return err
		}
		*file = to
	}
	dir, err := b.bundle("boot", "/bin/true")
	if err != nil {
		return err
	}
	c := config("/bin/true")
	c["annotations"] = object{"run.oci.runv.memory": fmt.Sprintf("%dMiB", bootMemory), "run.oci.runv.vcpus": "1"}
	if err := writeConfig(dir, c); err != nil {
		return err
	}
	b.runtimes = append(b.runtimes, &runtime{name: microvm})
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		if r.name == microvm {
			m, err := q.boot(ctx)
			if err != nil {
				return err
			}
			m.end()
			b.addBeside(microvm, agentSpoke, "ms", microvm, ms(m.took))
			return nil
		}
		return b.bootOnce(ctx, r, dir)
	})
}

// agentSpoke is the moment that runv and QEMU have in common.
const agentSpoke = "until the agent's first line"

// bootOnce runs a container; the log has the times.
func (b *bench) bootOnce(ctx context.Context, r *runtime, bundle string) error {
	path := filepath.Join(b.dir, "log")
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	logged := *r
	logged.options = append(append([]string{}, r.options...), "--debug", "--log", path, "--log-format", "json")
	begun := time.Now()
	if _, err := logged.command(ctx, "run", "--bundle", bundle, "boot"); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	stages, err := readStages(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, s := range stages {
		beside := ""
		if s.name == agentSpoke {
			beside = microvm
		}
		b.addBeside(beside, s.name, "ms", r.name, ms(s.at.Sub(begun)))
	}
	return nil
}

type stage struct {
	name string
	at   time.Time
}

// readStages reads the log of a boot: what the verb, the VM process and the agent
// have reached, in the order of time, each once.
func readStages(log io.Reader) ([]stage, error) {
	var stages []stage
	seen := make(map[string]bool)
	for decoder := json.NewDecoder(log); ; {
		var line struct {
			Time                   time.Time
			Msg, Stage, Verb, From string
		}
		if err := decoder.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		name := ""
		switch {
		case line.From == "guest" && strings.Contains(line.Msg, firstLine):
			name = agentSpoke
		case line.Stage == "run":
			name = "until the guest's first instruction"
		case line.Stage != "":
			name = "until " + line.Stage + " (VM process)"
		case line.Verb != "":
			name = "until " + line.Verb
		}
		if name != "" && !seen[name] {
			seen[name] = true
			stages = append(stages, stage{name, line.Time})
		}
	}
	if !seen[agentSpoke] {
		return nil, fmt.Errorf("the agent's first line is not among %d stages", len(stages))
	}
	return stages, nil
}
