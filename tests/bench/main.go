// Command bench measures OCI runtimes side by side: every round runs every
// runtime once, so that a machine that gets slower does so for all of them.
//
//	bench [-rounds N] [-out FILE] [-template NAME]… NAME=PATH[,OPTION]…
//
// The first runtime is what the others are compared with. Times are those of the
// commands, as an engine sees them, of copies of the programs in memory. It needs
// root, busybox and a tmpfs on /run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 5, "`N` measurements of each kind")
	out := flag.String("out", "", "write the measurements to `FILE` as JSON")
	templates := make(map[string]bool)
	flag.Func("template", "have the runtime `NAME` build its templates first", func(name string) error {
		templates[name] = true
		return nil
	})
	flag.Parse()
	var runtimes []runtime
	for _, arg := range flag.Args() {
		name, rest, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%s: want NAME=PATH", arg)
		}
		parts := strings.Split(rest, ",")
		runtimes = append(runtimes, runtime{name: name, path: parts[0], options: parts[1:], template: templates[name]})
	}
	if len(runtimes) == 0 || *rounds < 1 {
		return fmt.Errorf("nothing to measure: see --help")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("/run", "runv-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, samples: make(samples)}
	for i := range runtimes {
		if err := b.prepare(ctx, &runtimes[i]); err != nil {
			return fmt.Errorf("%s: %w", runtimes[i].name, err)
		}
	}
	for n := range *rounds {
		for _, r := range runtimes {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", n+1, *rounds, r.name)
			if err := b.round(ctx, r); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	table(os.Stdout, b.samples, runtimes)
	if *out == "" {
		return nil
	}
	return writeJSON(*out, b.samples)
}
