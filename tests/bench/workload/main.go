// Command workload does work inside a container and says how long it took:
//
//	workload DIRECTORY NAME…
//
// DIRECTORY has what the work is on: tree.tar; the files read and random; the C
// program src. Each result is a line of a name, a number and a unit with tabs
// between. Without a NAME, everything is done.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	block  = 1 << 20 // of sequential reads
	page   = 4 << 10 // of random ones
	reads  = 2000
	spawns = 20
	hashed = 64 << 20
	sorted = 2_000_000
	jobs   = 4
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

var all = []struct {
	name string
	do   func(dir string) error
}{
	{"cpu", cpu}, {"spawn", spawn}, {"walk", walk}, {"read", read}, {"random", random}, {"untar", untar}, {"make", build},
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: workload DIRECTORY NAME…")
	}
	for _, name := range args[1:] {
		if !slices.ContainsFunc(all, func(w struct {
			name string
			do   func(string) error
		}) bool {
			return w.name == name
		}) {
			return fmt.Errorf("no workload %q", name)
		}
	}
	for _, w := range all {
		if len(args) > 1 && !slices.Contains(args[1:], w.name) {
			continue
		}
		if err := w.do(args[0]); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

func say(name string, value float64, unit string) { fmt.Printf("%s\t%.3f\t%s\n", name, value, unit) }

// timed says how many milliseconds something takes.
func timed(name string, do func() error) error {
	begun := time.Now()
	if err := do(); err != nil {
		return err
	}
	say(name, float64(time.Since(begun))/float64(time.Millisecond), "ms")
	return nil
}

// cpu computes without a system call: in one thread what fits into the caches
// and what does not, then on all processors.
func cpu(string) error {
	data := make([]byte, block)
	hash := func() error {
		for range hashed / block {
			sha256.Sum256(data)
		}
		return nil
	}
	if err := timed("CPU: hash 64 MiB", hash); err != nil {
		return err
	}
	numbers := make([]int64, sorted)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range numbers {
		numbers[i] = random.Int64()
	}
	if err := timed("CPU: sort 16 MiB", func() error {
		slices.Sort(numbers)
		return nil
	}); err != nil {
		return err
	}
	return timed("CPU: hash 64 MiB on every processor", func() error {
		var wg sync.WaitGroup
		for range runtime.NumCPU() {
			wg.Go(func() { _ = hash() }) // it has no error
		}
		wg.Wait()
		return nil
	})
}

// spawn runs short programs, one after the other.
func spawn(string) error {
	begun := time.Now()
	for range spawns {
		if err := exec.Command("/bin/true").Run(); err != nil {
			return err
		}
	}
	say("fork, exec and wait", float64(time.Since(begun))/float64(time.Millisecond)/spawns, "ms")
	return nil
}

// walk looks at every file below /usr.
func walk(string) error {
	for _, name := range []string{"walk and stat /usr, first time", "walk and stat /usr, again"} {
		if err := timed(name, func() error {
			return filepath.WalkDir("/usr", func(_ string, d fs.DirEntry, err error) error {
				if err == nil {
					_, err = d.Info()
				}
				return err
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// read reads a file from its beginning to its end.
func read(dir string) error {
	buffer := make([]byte, block)
	for _, name := range []string{"sequential read, first time", "sequential read, again"} {
		f, err := os.Open(filepath.Join(dir, "read"))
		if err != nil {
			return err
		}
		var total int
		begun := time.Now()
		for {
			n, err := f.Read(buffer)
			total += n
			if err == io.EOF {
				break
			} else if err != nil {
				return errors.Join(err, f.Close())
			}
		}
		say(name, float64(total)/block/time.Since(begun).Seconds(), "MiB/s")
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// random reads pages of a file in an order that is the same every time, and that
// a reader ahead does not know.
func random(dir string) error {
	f, err := os.Open(filepath.Join(dir, "random"))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	buffer := make([]byte, page)
	for _, name := range []string{"random read of 4 KiB, first time", "random read of 4 KiB, again"} {
		order := rand.New(rand.NewPCG(3, 4))
		begun := time.Now()
		for range reads {
			if _, err := f.ReadAt(buffer, order.Int64N(info.Size()/page)*page); err != nil {
				return err
			}
		}
		say(name, float64(time.Since(begun))/float64(time.Microsecond)/reads, "µs")
	}
	return nil
}

// untar unpacks an archive, and removes what came out of it.
func untar(dir string) error {
	to := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := timed("untar", func() error {
		return command("tar", "--no-same-owner", "-C", to, "-xf", filepath.Join(dir, "tree.tar"))
	}); err != nil {
		return err
	}
	return timed("remove what untar made", func() error { return os.RemoveAll(to) })
}

// build compiles a C program.
func build(dir string) error {
	src := filepath.Join(dir, "src")
	if err := timed(fmt.Sprintf("make -j%d of a C program", jobs), func() error {
		return command("make", "-s", "-C", src, fmt.Sprintf("-j%d", jobs))
	}); err != nil {
		return err
	}
	return command("make", "-s", "-C", src, "clean")
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
