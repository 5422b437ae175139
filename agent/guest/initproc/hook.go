package initproc

import (
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxHookOutput bounds what a failed hook adds to the error.
const maxHookOutput = 1 << 10

// runHook runs a startContainer hook in the container, with the attributes of
// its process, and the state on its standard input.
func runHook(hook *specs.Hook, state []byte) error {
	input, err := memfile("state", state)
	if err != nil {
		return err
	}
	defer input.Close()
	output, err := memfile("output", nil)
	if err != nil {
		return err
	}
	defer output.Close()
	args := hook.Args
	if len(args) == 0 {
		args = []string{hook.Path}
	}
	// A hook that has no environment gets an empty one, not the agent's.
	process, err := os.StartProcess(hook.Path, args, &os.ProcAttr{
		Env:   append([]string{}, hook.Env...),
		Files: []*os.File{input, output, output},
	})
	if err != nil {
		return err
	}
	if hook.Timeout != nil {
		timer := time.AfterFunc(time.Duration(*hook.Timeout)*time.Second, func() { process.Kill() })
		defer timer.Stop()
	}
	status, err := process.Wait()
	if err != nil {
		return err
	}
	if !status.Success() {
		text := make([]byte, maxHookOutput)
		n, _ := output.ReadAt(text, 0)
		return fmt.Errorf("%v: %q", status, text[:n])
	}
	return nil
}

func memfile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(content, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
