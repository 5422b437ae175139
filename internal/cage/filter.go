package cage

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/internal/seccomp"
)

// filter compiles the list of system calls.
func (o *Options) filter(pid int) (*seccomp.Filter, error) {
	var calls []specs.LinuxSyscall
	for _, g := range o.Groups(pid) {
		for _, r := range g.Rules {
			action := specs.ActAllow
			if r.Refuse {
				action = specs.ActErrno // EPERM
			}
			if r.When == nil {
				calls = append(calls, specs.LinuxSyscall{Names: r.Calls, Action: action})
			}
			for _, c := range r.When {
				calls = append(calls, specs.LinuxSyscall{Names: r.Calls, Action: action, Args: c})
			}
		}
	}
	f, err := seccomp.Allow(calls)
	if err != nil {
		return nil, fmt.Errorf("the list of system calls: %w", err)
	}
	return f, nil
}
