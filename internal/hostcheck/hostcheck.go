// Package hostcheck finds out whether this host can run virtual machines, and
// says what is missing and what to do about it. It changes nothing.
package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Status is how a check ended.
type Status string

// Statuses. With a Warn, runv works, but slower or less well protected.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Result is what one check found.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"` // what to do, unless OK
}

// Run makes all checks, in the order in which they build on each other. It
// takes a few seconds at most, whatever the host is like.
func Run(ctx context.Context) []Result {
	h := host{root: "/"}
	results := []Result{
		h.kernel(),
		h.device(),
		h.module(),
	}
	if results[1].Status != Fail {
		results = append(results, h.capabilities(), h.guest(ctx))
	}
	results = append(results,
		h.cgroup(),
		h.namespaces(),
		h.openat2(),
		h.overcommit(),
	)
	return append(results, cageLayers()...)
}

// Failed reports whether runv cannot work.
func Failed(results []Result) bool {
	for _, r := range results {
		if r.Status == Fail {
			return true
		}
	}
	return false
}

// Open opens /dev/kvm, unless it is known not to run a guest kernel. It costs
// a few system calls. The error is one line that says what to do.
func Open() (*os.File, error) { return host{root: "/"}.open() }

// Usable is Open for those who do not need the file.
func Usable() error {
	f, err := Open()
	if err != nil {
		return err
	}
	return f.Close()
}

// host is what is examined; tests give it another root.
type host struct {
	root string
}

func (h host) path(name string) string { return filepath.Join(h.root, name) }

func (h host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// problem is an error with advice.
type problem struct {
	detail, advice string
	err            error
}

func (p *problem) Error() string { return p.detail + ": " + p.advice }

func (p *problem) Unwrap() error { return p.err }

var errPVM = &problem{
	detail: "/dev/kvm is kvm_pvm, which cannot boot an ordinary guest kernel",
	advice: "use a host with kvm_amd or kvm_intel, or the emulated one of tests/host/run",
}

func (h host) open() (*os.File, error) {
	if h.exists("sys/module/kvm_pvm") {
		return nil, errPVM
	}
	return h.openDevice()
}

func (h host) openDevice() (*os.File, error) {
	f, err := os.OpenFile(h.path("dev/kvm"), os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, &problem{
			detail: "/dev/kvm is missing", err: err,
			advice: "load the module kvm_amd or kvm_intel; if it refuses, enable virtualization (AMD-V, VT-x) in the firmware, or nested virtualization where this is a virtual machine itself",
		}
	case errors.Is(err, fs.ErrPermission):
		return nil, &problem{
			detail: "/dev/kvm: permission denied", err: err,
			advice: "run as root or add the user to the group of /dev/kvm",
		}
	}
	return nil, &problem{detail: fmt.Sprintf("/dev/kvm cannot be opened: %v", err), err: err, advice: "see the kernel log"}
}

// result turns an error into a failed check.
func result(name string, err error, detail string) Result {
	if err == nil {
		return Result{Name: name, Status: OK, Detail: detail}
	}
	var p *problem
	if errors.As(err, &p) {
		return Result{Name: name, Status: Fail, Detail: p.detail, Advice: p.advice}
	}
	return Result{Name: name, Status: Fail, Detail: err.Error()}
}
