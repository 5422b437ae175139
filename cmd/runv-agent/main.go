// The runv-agent is process 1 of the guest.
package main

import (
	"context"
	"fmt"
	"os"

	"runv.dev/runv/agent/guest"
	"runv.dev/runv/agent/guest/initproc"
)

// version is set by the linker.
var version = "devel"

func main() {
	if len(os.Args) > 1 && (os.Args[1] == initproc.InitArg || os.Args[1] == initproc.ExecArg) {
		initproc.Main(os.Args[1])
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "runv-agent: runs only as process 1 of a guest")
		os.Exit(2)
	}
	// The kernel panics when process 1 ends, and the VMM sees that.
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "runv-agent:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := guest.Boot(); err != nil {
		return err
	}
	control, stream, err := guest.Listen()
	if err != nil {
		return err
	}
	log := guest.OpenLog()
	log.Info("agent", "version", version)
	agent, err := guest.New(guest.Options{
		Control:    control,
		Stream:     stream,
		CgroupRoot: guest.CgroupRoot(),
		Rootfs:     guest.VirtioFS,
		Reset:      guest.Reset,
		Log:        log,
	})
	if err != nil {
		return err
	}
	go func() {
		if err := guest.Hello(); err != nil {
			log.Error("the host does not answer", "error", err)
		}
	}()
	return agent.Run(context.Background())
}
