package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/vmm"
)

// job is what the process of a VM is told, in its environment.
type job struct {
	Kernel string
	Case   testCase
	Dir    string // with the shares "rw" and "ro"
}

const jobVariable = "RUNV_HOSTILE_JOB"

// outcome is what such a process reports.
type outcome struct {
	Error string // of the harness or the VMM

	Exit   string // why the VM ended
	Detail string
	Passed bool // the guest says so
	Said   string

	Milliseconds float64 // from the first instruction to the end
	QuietAfter   float64 // milliseconds until the process had nothing to do any more; -1: never

	HeapBytes  uint64 // most that the Go runtime had from the host
	Goroutines [2]int // before the VM was made and after it was closed
	Files      [3]int // descriptors: before, most, after
	LogLines   int
	LogBytes   int
	FirstLine  string
	Errors     []string // log lines of level error
}

// runVM is the main function of a VM's process.
func runVM(encoded string) int {
	var j job
	var o outcome
	if err := json.Unmarshal([]byte(encoded), &j); err != nil {
		o.Error = err.Error()
	} else if err := o.run(&j); err != nil {
		o.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(&o); err != nil {
		return 1
	}
	return 0
}

// caseLimit ends a VM whose guest hangs.
const caseLimit = 150 * time.Second

func (o *outcome) run(j *job) (err error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer kvm.Close()
	kernel, err := os.Open(j.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	st, err := kernel.Stat()
	if err != nil {
		return err
	}
	log := &logCounter{}
	o.Goroutines[0], o.Files[0] = runtime.NumGoroutine(), openFiles()
	h, err := newHost(j, slog.New(log))
	if err != nil {
		return err
	}
	vm, err := vmm.New(vmm.Config{
		KVM:         kvm,
		Kernel:      io.NewSectionReader(kernel, 0, st.Size()),
		Cmdline:     "case=" + j.Case.Class + ".c/" + j.Case.Name,
		MemoryBytes: j.Case.MemoryMiB << 20,
		VCPUs:       j.Case.VCPUs,
		Devices:     h.devices(),
		Log:         slog.New(log),
	})
	if err != nil {
		return errors.Join(err, h.close())
	}
	peak := newSampler()
	ctx, cancel := context.WithTimeoutCause(context.Background(), caseLimit, errors.New("the guest hangs"))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	begun := time.Now()
	go func() {
		if j.Case.Exit == "stopped" {
			time.Sleep(100 * time.Millisecond)
			stop(nil)
			return
		}
		select {
		case <-h.monitor.done:
			o.HeapBytes, o.Files[1] = peak.stop()
			o.QuietAfter = quiet()
			close(h.monitor.proceed)
		case <-ctx.Done():
		}
	}()
	exit, err := vm.Run(ctx)
	o.Milliseconds = float64(time.Since(begun).Microseconds()) / 1000
	o.Exit, o.Detail = exit.Reason.String(), exit.Detail
	o.Said, o.Passed = h.monitor.text(), h.monitor.result == 1
	stop(nil)
	closing := time.Now()
	err = errors.Join(err, vm.Close(), h.close())
	if d := time.Since(closing); d > closeLimit {
		err = errors.Join(err, fmt.Errorf("it took %v to close the VM", d))
	}
	o.HeapBytes, o.Files[1] = peak.stop()
	for try := 0; ; try++ {
		o.Goroutines[1], o.Files[2] = runtime.NumGoroutine(), openFiles()
		if o.Goroutines[1] <= o.Goroutines[0]+readAhead && o.Files[2] <= o.Files[0] || try == 500 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if o.Goroutines[1] > o.Goroutines[0]+readAhead {
		stacks := make([]byte, 64<<10)
		err = errors.Join(err, fmt.Errorf("goroutines left: %s", stacks[:runtime.Stack(stacks, true)]))
	}
	o.LogLines, o.LogBytes, o.Errors = int(log.lines.Load()), int(log.bytes.Load()), log.errors()
	if first := log.first.Load(); first != nil {
		o.FirstLine = *first
	}
	return err
}

// readAhead is the goroutine by which the console reads the input of its port:
// what it has read waits for the next activation.
const readAhead = 1

// closeLimit is the sum of the bounded waits that a device's Reset may have.
const closeLimit = 8 * time.Second

// quiet waits until this process uses next to no processor time, and returns
// after how many milliseconds, -1 if that does not happen.
func quiet() float64 {
	const window, enough = 60 * time.Millisecond, 20 * time.Millisecond
	begun := time.Now()
	for time.Since(begun) < 10*time.Second {
		before := cpuTime()
		time.Sleep(window)
		if cpuTime()-before < enough {
			return float64(time.Since(begun).Milliseconds())
		}
	}
	return -1
}

func cpuTime() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}

// sampler notes the most memory and descriptors of a while.
type sampler struct {
	heap  uint64
	files int
	once  sync.Once
	end   chan struct{}
	ended chan struct{}
}

func newSampler() *sampler {
	s := &sampler{end: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			s.sample()
			select {
			case <-tick.C:
			case <-s.end:
				return
			}
		}
	}()
	return s
}

func (s *sampler) sample() {
	v := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(v)
	s.heap = max(s.heap, v[0].Value.Uint64()-v[1].Value.Uint64())
	s.files = max(s.files, openFiles())
}

func (s *sampler) stop() (heap uint64, files int) {
	s.once.Do(func() { close(s.end) })
	<-s.ended
	return s.heap, s.files
}

// logCounter counts what is logged, and keeps the first line and errors.
type logCounter struct {
	lines, bytes atomic.Int64
	first        atomic.Pointer[string]
	kept         [8]atomic.Pointer[string]
	n            atomic.Int64
}

func (l *logCounter) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}
func (l *logCounter) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logCounter) WithGroup(string) slog.Handler      { return l }

func (l *logCounter) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	l.first.CompareAndSwap(nil, &text)
	l.lines.Add(1)
	l.bytes.Add(int64(len(text)))
	if r.Level >= slog.LevelError {
		if i := l.n.Add(1) - 1; i < int64(len(l.kept)) {
			l.kept[i].Store(&text)
		}
	}
	return nil
}

func (l *logCounter) errors() (texts []string) {
	for i := range l.kept {
		if s := l.kept[i].Load(); s != nil {
			texts = append(texts, *s)
		}
	}
	return texts
}

// neighbour runs the guest that answers pings in this process.
type neighbour struct {
	vm      *vmm.VM
	monitor *monitor
	ended   chan error

	slowest atomic.Int64 // of the answers since the last look, in nanoseconds
	answers atomic.Int64
}

func newNeighbour(kvmPath, kernelPath string, log *slog.Logger) (*neighbour, error) {
	kvm, err := os.OpenFile(kvmPath, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer kvm.Close()
	kernel, err := os.Open(filepath.Clean(kernelPath))
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	st, err := kernel.Stat()
	if err != nil {
		return nil, err
	}
	n := &neighbour{ended: make(chan error, 1)}
	n.monitor = newMonitor(func(uint32) uint32 { return 32 })
	close(n.monitor.proceed)
	n.vm, err = vmm.New(vmm.Config{
		KVM:         kvm,
		Kernel:      io.NewSectionReader(kernel, 0, st.Size()),
		Cmdline:     "case=lib.c/neighbour",
		MemoryBytes: 32 << 20,
		VCPUs:       1,
		Devices:     neighbourDevices(n.monitor),
		Log:         log,
	})
	if err != nil {
		return nil, err
	}
	go func() {
		exit, err := n.vm.Run(context.Background())
		if err == nil && exit.Reason != vmm.ExitReset {
			err = fmt.Errorf("the neighbour ended: %v: %s", exit, n.monitor.text())
		}
		n.ended <- err
	}()
	go n.ping()
	return n, nil
}

// ping asks the neighbour for an answer every few milliseconds.
func (n *neighbour) ping() {
	for {
		begun := time.Now()
		select {
		case n.monitor.pings <- struct{}{}:
		case <-n.monitor.enough:
			return
		}
		select {
		case <-n.monitor.pongs:
		case <-n.monitor.done:
			return // with a failure
		}
		n.answers.Add(1)
		n.slowest.Store(max(n.slowest.Load(), int64(time.Since(begun))))
		time.Sleep(5 * time.Millisecond)
	}
}

// since returns how many answers came since the last call, and how long the
// slowest took.
func (n *neighbour) since() (answers int64, slowest time.Duration) {
	return n.answers.Swap(0), time.Duration(n.slowest.Swap(0))
}
