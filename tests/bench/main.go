// Command bench measures OCI runtimes side by side: in every round each runtime
// has its turn, so that a machine that gets slower does so for all of them.
//
//	bench [OPTION]… PART NAME=PATH[,OPTION]…
//	bench summary [-json FILE] [-chart FILE] REPORT…
//
// Times are those of the commands, as an engine sees them, of copies of the
// programs in memory. It needs root, busybox and a tmpfs on /run. What a part
// needs besides is said at its options.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"runv.dev/runv/tests/bench/report"
)

// base is the runtime that the others are compared with.
const base = "crun"

// options are what the parts can be told.
type options struct {
	rounds    int
	out       string
	templates []string // runtimes that have some

	together int   // parallel
	idle     []int // memory
	size     int   // work: MiB of its files

	root, workload string // work
	work           []string
	sockets        string  // network
	seconds        float64 // network
	hostKernel     string  // network
	kernel, initrd string  // boot, memory
}

// part is one of those that can be measured.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

var parts = []part{
	{"lifecycle", lifecycle}, {"parallel", parallel}, {"memory", memory},
	{"work", work}, {"network", network}, {"boot", boot},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "summary" {
		err = summary(os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "`N` measurements of each kind")
	flag.StringVar(&o.out, "out", "", "write the measurements to `FILE` as JSON")
	flag.Func("template", "have the runtime `NAME` build its templates first", func(name string) error {
		o.templates = append(o.templates, name)
		return nil
	})
	flag.IntVar(&o.together, "together", 20, "parallel: `N` containers at once")
	o.idle = []int{1, 20, 100}
	flag.Func("idle", "memory: idle containers, as `N,N…` (1,20,100)", func(s string) (err error) {
		o.idle, err = counts(s)
		return err
	})
	flag.IntVar(&o.size, "size", 32, "work: `MIB` of the files that are read")
	flag.StringVar(&o.root, "root", "", "work: the `ARCHIVE` that tests/bench/root made")
	flag.StringVar(&o.workload, "workload", "", "work: the `FILE` that tests/bench/workload/build made")
	o.work = workNames
	flag.Func("work", "work: what of it, as `NAME,NAME…` ("+strings.Join(workNames, ",")+")", func(s string) (err error) {
		o.work = strings.Split(s, ",")
		for _, name := range o.work {
			if !slices.Contains(workNames, name) {
				err = fmt.Errorf("no work is called %q", name)
			}
		}
		return err
	})
	flag.StringVar(&o.sockets, "sockets", "", "network: the `FILE` that tests/tsi/build made")
	flag.Float64Var(&o.seconds, "seconds", 1, "network: `N` for each measurement")
	flag.StringVar(&o.hostKernel, "host-kernel", "", "network: a distribution's kernel, a `FILE` whose modules are installed, for QEMU")
	flag.StringVar(&o.kernel, "kernel", "", "boot, memory: the guest's kernel, a `FILE`, for QEMU")
	flag.StringVar(&o.initrd, "initrd", "", "boot, memory: the guest's root, a `FILE`, for QEMU")
	flag.Parse()
	at := slices.IndexFunc(parts, func(p part) bool { return p.name == flag.Arg(0) })
	if at < 0 || o.rounds < 1 || o.together < 1 || o.size < 1 || o.seconds <= 0 {
		return errors.New("nothing to measure: see --help")
	}
	var runtimes []*runtime
	for _, arg := range flag.Args()[1:] {
		r, err := parseRuntime(arg)
		if err != nil {
			return err
		}
		r.template = slices.Contains(o.templates, r.name)
		runtimes = append(runtimes, r)
	}
	if len(runtimes) == 0 {
		return errors.New("no runtime to measure: see --help")
	}
	b, err := newBench(o, parts[at].name, runtimes)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	began := time.Now()
	failed := parts[at].run(ctx, b)
	b.Runs = append(b.Runs, host(b.part, o.rounds, began))
	if err := b.Table(os.Stdout); err != nil {
		return err
	}
	if o.out != "" {
		if err := b.Write(o.out); err != nil {
			return err
		}
	}
	return errors.Join(failed, b.err())
}

// counts are positive numbers that grow.
func counts(s string) ([]int, error) {
	var list []int
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 || len(list) > 0 && n <= list[len(list)-1] {
			return nil, fmt.Errorf("%q: want positive numbers, each larger than the one before", s)
		}
		list = append(list, n)
	}
	return list, nil
}

// summary writes several reports as one.
func summary(args []string) error {
	flags := flag.NewFlagSet("summary", flag.ExitOnError)
	out := flags.String("json", "", "write all measurements to `FILE`")
	chart := flags.String("chart", "", "draw the ratios into `FILE`, an SVG")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("summary: no report")
	}
	var all report.Report
	for _, name := range flags.Args() {
		r, err := report.Read(name)
		if err != nil {
			return err
		}
		all.Merge(r)
	}
	if err := all.Table(os.Stdout); err != nil {
		return err
	}
	if *out != "" {
		if err := all.Write(*out); err != nil {
			return err
		}
	}
	if *chart == "" {
		return nil
	}
	var b strings.Builder
	if err := all.Chart(&b, title(all.Runs)); err != nil {
		return err
	}
	return report.WriteFile(*chart, []byte(b.String()))
}

// title says where something was measured.
func title(runs []report.Run) string {
	if len(runs) == 0 {
		return "runv beside others"
	}
	r := runs[0]
	kind := r.Host + " host"
	if r.Host == "tcg" {
		kind = "emulated host"
	}
	return fmt.Sprintf("runv beside others: %s, %d CPUs, %d MiB, Linux %s", kind, r.CPUs, r.Memory, r.Kernel)
}
