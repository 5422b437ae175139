package vmprocess

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"runv.dev/runv/agent/client"
	"runv.dev/runv/internal/spec"
	"runv.dev/runv/vmm"
	"runv.dev/runv/vmm/snapshot"
)

// rehearse starts a container in a clone of a template, and tells which memory
// that took. It makes sure that the template is good, too.
func rehearse(ctx context.Context, log *slog.Logger, kvm *os.File, machine *snapshot.Machine, memory *os.File) (snapshot.WorkingSet, error) {
	var working snapshot.WorkingSet
	s, err := openStage(log)
	if err != nil {
		return working, err
	}
	defer s.Close()
	m := s.machine
	m.cloned = true
	vm, err := vmm.New(vmm.Config{
		KVM:         kvm,
		Snapshot:    &vmm.Snapshot{Machine: machine, Memory: memory},
		MemoryBytes: machine.MemoryBytes,
		VCPUs:       len(machine.VCPUs),
		Devices:     s.devices,
		Log:         log,
		Trace:       m.process.trace,
	})
	if err != nil {
		return working, fmt.Errorf("rehearsal: %w", err)
	}
	defer vm.Close()
	err = s.play(ctx, vm, func(ctx context.Context) error {
		agent, err := client.New(ctx, m.dial)
		if err == nil {
			err = errors.Join(m.perform(ctx, agent), agent.Close())
		}
		return err
	})
	if err != nil {
		return working, fmt.Errorf("rehearsal: %w", err)
	}
	return vm.WorkingSet()
}

// program is the rehearsal's container: an executable of x86-64 that ends at
// once, with status 0.
var program = []byte{
	// ELF header: 64 bits, little-endian, executable, entry at 0x10078, one
	// program header at 64.
	0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	2, 0, 62, 0, 1, 0, 0, 0, 0x78, 0, 1, 0, 0, 0, 0, 0,
	64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0,
	// Program header: load all of the file, 129 bytes, at 0x10000, readable and
	// executable.
	1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0,
	129, 0, 0, 0, 0, 0, 0, 0, 129, 0, 0, 0, 0, 0, 0, 0,
	0, 16, 0, 0, 0, 0, 0, 0,
	0x31, 0xff, // xor edi, edi
	0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
	0x0f, 0x05, // syscall
}

// rehearsalID is the id of the rehearsal's container, and the name of its
// program.
const rehearsalID = "rehearsal"

// perform does what a container's start and end take.
func (m *machine) perform(ctx context.Context, agent *client.Client) error {
	config := spec.Example()
	config.Process.Terminal = false
	config.Process.Args = []string{"/" + rehearsalID}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	stdio, err := client.NewStdio(client.StdioOptions{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	defer stdio.Close()
	opened := make(chan error, 1)
	go func() { opened <- agent.OpenStdio(ctx, stdio) }()
	created, err := agent.Create(ctx, client.CreateOptions{
		ID: rehearsalID, Spec: data, RootfsTag: rootTag, Stdio: stdio, Network: bridgedNetwork(), Clone: newClone(m.cloned),
	})
	if err = errors.Join(err, <-opened); err != nil {
		return err
	}
	m.process.warn(created.Warnings)
	for _, stream := range []net.Conn{stdio.Stdout, stdio.Stderr} {
		go io.Copy(io.Discard, stream) // ends with the stream
	}
	if err := agent.Start(ctx, rehearsalID, nil); err != nil {
		return err
	}
	exit, err := agent.Wait(ctx, rehearsalID, "")
	if err == nil && exit.Status() != 0 {
		err = fmt.Errorf("the container ended with status %d", exit.Status())
	}
	return err
}
