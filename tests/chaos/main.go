// Command chaos runs container lifecycles and kills, with SIGKILL and at a
// random moment, one of the processes involved: the runv command of a step, its
// parent, or the VM process. After each, `runv delete --force` has to work, and
// nothing may be left: no process, mount, cgroup, file of the state root or of
// the bundle, and no descriptor. It needs a real /dev/kvm: `make chaos`.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

func main() {
	log.SetFlags(log.Ltime)
	log.SetPrefix("chaos: ")
	var o options
	flag.StringVar(&o.runv, "runv", "bin/runv", "the runtime")
	flag.IntVar(&o.rounds, "rounds", 200, "how many lifecycles")
	flag.Uint64Var(&o.seed, "seed", 0, "repeat the choices of an earlier run (0: new ones)")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: takes options only", flag.Arg(0))
	}
	report, err := run(o)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(report)
	if report.failed > 0 {
		os.Exit(1)
	}
}

type options struct {
	runv   string
	rounds int
	seed   uint64
}

// report counts what was killed.
type report struct {
	seed           uint64
	rounds, failed int
	kills          map[string]int // by step and victim
	late           int            // the victim had ended before its moment
}

func (r *report) String() string {
	s := ""
	for _, step := range steps {
		for _, victim := range victims {
			if n := r.kills[step.name+" "+victim]; n > 0 {
				s += fmt.Sprintf("%-8s %-8s %4d killed\n", step.name, victim, n)
			}
		}
	}
	return s + fmt.Sprintf("seed %d: %d lifecycles, in %d of them the victim had already ended; %d failed\n", r.seed, r.rounds, r.late, r.failed)
}

// run does all rounds. An error means that chaos itself could not go on.
func run(o options) (*report, error) {
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	path, err := filepath.Abs(o.runv)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "runv-chaos-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	w := &world{runv: path, root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	if err := makeBundle(path, w.bundle); err != nil {
		return nil, err
	}
	log.Printf("seed %d, %d rounds", o.seed, o.rounds)
	r := &report{seed: o.seed, kills: make(map[string]int)}
	// An undisturbed lifecycle creates what stays (the mount points in the
	// bundle, parents of cgroups), and tells how long the steps take.
	durations, err := w.measure()
	if err != nil {
		return nil, fmt.Errorf("without any kill: %w", err)
	}
	log.Printf("undisturbed: %v", durations)
	before, err := w.things()
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	for r.rounds < o.rounds {
		r.rounds++
		c := choose(random, durations)
		killed, err := w.round(c)
		if err == nil {
			err = w.nothingLeft(before)
		}
		if err != nil {
			r.failed++
			log.Printf("FAIL: round %d: %v: %v", r.rounds, c, err)
			w.cleanUp()
			continue
		}
		if !killed {
			r.late++
		} else {
			r.kills[c.step.name+" "+c.victim]++
		}
		log.Printf("round %d: %v: ok", r.rounds, c)
	}
	if _, err := w.measure(); err != nil {
		return nil, fmt.Errorf("without any kill, in the end: %w", err)
	}
	return r, w.nothingLeft(before)
}

// choice is what happens in a round.
type choice struct {
	step   step
	victim string
	after  time.Duration // since the step began
	// again: delete is killed, too, before the one that has to work.
	again time.Duration
}

func (c choice) String() string {
	return fmt.Sprintf("%s: kill its %s after %v", c.step.name, c.victim, c.after.Round(time.Millisecond))
}

// choose picks a step, a victim and a moment somewhat beyond the step's usual
// end.
func choose(random *rand.Rand, durations map[string]time.Duration) choice {
	c := choice{step: steps[random.IntN(len(steps))], victim: victims[random.IntN(len(victims))]}
	c.after = time.Duration(random.Float64() * 1.2 * float64(durations[c.step.name]))
	if random.IntN(4) == 0 {
		c.again = time.Duration(random.Float64() * float64(durations["delete"]))
	}
	return c
}
