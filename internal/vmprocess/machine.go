package vmprocess

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/assets"
	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/checkpoint"
	"runv.dev/runv/internal/hooks"
	"runv.dev/runv/internal/netmirror"
	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/tsi"
	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/balloon"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/fs"
	"runv.dev/runv/virtio/fs/passthrough"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/virtio/vsock"
	"runv.dev/runv/vmm"
)

// rootTag names the share with the root file system.
const rootTag = "rootfs"

// guestCID is the guest's address; every VM has a vsock device of its own, so
// that all have the same.
const guestCID = 3

// maxSpec bounds the configuration that goes to the agent in one message.
const maxSpec = protocol.MaxMessage - 64<<10

// machine is the running virtual machine.
type machine struct {
	process *process
	vsock   *vsock.Device
	balloon *balloon.Device
	mirror  *netmirror.Mirror
	hello   net.Listener
	network *tsi.Server

	// guest ends when the machine has stopped; its cause is the reason.
	guest context.Context
	stop  context.CancelCauseFunc

	// cloned: the guest's agent waits since long before this process began.
	cloned bool
	// saved is the checkpoint that the guest goes on from; nil: none.
	saved *checkpoint.Image

	vm        *vmm.VM
	container atomic.Pointer[container] // once it is created
	saving    sync.Mutex                // held while the container is saved
}

// newMachine makes a machine that does not run yet, and its devices. The
// devices are the same for a template and for its clones.
func (p *process) newMachine(share virtio.Device) (*machine, []virtio.Device) {
	m := &machine{
		process: p,
		vsock: vsock.New(vsock.Options{
			CID: guestCID, MaxConns: maxConns, MaxBuffer: maxBuffer, MaxSeqpacket: maxDatagrams + 16,
			Backlog: vsockBacklog, Log: p.log.With("device", "vsock"),
		}),
		balloon: balloon.New(p.log.With("device", "balloon")),
	}
	m.guest, m.stop = context.WithCancelCause(context.Background())
	agentLog := &lineLogger{log: p.log, level: slog.LevelDebug}
	return m, []virtio.Device{
		console.New(
			console.Port{Console: true, Out: p.console},
			console.Port{Name: protocol.LogPort, Out: agentLog},
		),
		share,
		m.vsock,
		rng.New(rand.Reader),
		m.balloon,
	}
}

// unmapped are the id-mapped mounts of the share that have no id for root.
func unmapped(root *sandbox.Root) map[uint64]passthrough.Unmapped {
	list := make(map[uint64]passthrough.Unmapped, len(root.Unmapped))
	for id, u := range root.Unmapped {
		list[id] = passthrough.Unmapped(u)
	}
	return list
}

// assemble builds the machine and the cage around it, and starts the guest. ctx
// bounds the hooks.
func (p *process) assemble(ctx context.Context) (*machine, error) {
	plan := p.boot.Plan
	if err := cage.Limit(plan.Machine.MemoryBytes, plan.Spec.Process.OOMScoreAdj); err != nil {
		return nil, err
	}
	p.trace("bootstrapped")
	// Before the root is entered, from where nothing of this is to be seen.
	source, err := p.openSource()
	if err != nil {
		return nil, err
	}
	defer source.Close()
	root, err := sandbox.Compose(plan, source.image != nil)
	if err != nil {
		return nil, err
	}
	defer root.Dir.Close()
	p.trace("composed")
	if err := shareUTS(plan); err != nil {
		return nil, err
	}
	// In the container's namespaces, before its root is entered. As with runc,
	// they find themselves in the root.
	if err := hooks.Run(ctx, "createContainer", plan.Hooks.CreateContainer, p.state(specs.StateCreating), plan.Rootfs); err != nil {
		return nil, err
	}

	// While the host's procfs is there.
	mirror, err := p.openNetwork()
	if err != nil {
		return nil, err
	}
	proc, lacks, err := cage.Prepare()
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	share, err := fs.New(fs.Options{
		Tag:  rootTag,
		Root: root.Dir,
		Proc: proc,
		// With bind mounts that may be writable the host's mount flags alone
		// keep the root read-only.
		ReadOnly:    plan.ReadOnlyShare(),
		DeviceNodes: plan.DeviceNodes,
		Unmapped:    unmapped(root),
		Log:         p.log.With("device", "fs"),
	})
	if err != nil {
		return nil, err
	}
	m, devices := p.newMachine(share)
	m.mirror = mirror
	if err := m.impersonate(); err != nil {
		return nil, err
	}
	m.serveCheckpoints()
	m.vm, err = source.make(m, vmm.Config{
		KVM:         p.in.KVM,
		MemoryBytes: plan.Machine.MemoryBytes,
		VCPUs:       plan.Machine.VCPUs,
		Devices:     devices,
		Checkpoints: true,
		Log:         p.log,
		Trace:       p.trace,
	})
	if err != nil {
		return nil, err
	}
	if err := p.in.KVM.Close(); err != nil {
		return nil, err
	}
	p.trace("machine made")
	if err := errors.Join(source.Close(), proc.Close()); err != nil {
		return nil, err
	}
	if err := p.confine(root, share, m, lacks); err != nil {
		return nil, err
	}
	go m.serve()
	go m.run(m.vm)
	return m, nil
}

// openAssets opens the kernel and the initrd, or what replaces them.
func openAssets(kernel, initrd string) (*assets.Assets, error) {
	guest, err := assets.Open()
	if err != nil {
		return nil, err
	}
	if kernel != "" {
		err = guest.ReplaceKernel(kernel)
	}
	if err == nil && initrd != "" {
		err = guest.ReplaceInitrd(initrd)
	}
	if err != nil {
		guest.Close()
		return nil, err
	}
	return guest, nil
}

// run runs the machine until it ends.
func (m *machine) run(vm *vmm.VM) {
	exit, err := vm.Run(context.Background())
	reason := exit.String()
	if err != nil {
		reason = fmt.Sprintf("%s: %v", reason, err)
	}
	m.stop(fmt.Errorf("the guest died: %s%s", reason, m.process.lastLines()))
}

// serve connects the clients of agent.sock to the agent, for as long as the
// process lives.
func (m *machine) serve() {
	err := m.vsock.ServeUnix(context.Background(), m.process.in.Agent, func(port uint32) bool {
		return port == protocol.ControlPort || port == protocol.StreamPort
	})
	m.process.log.Error("agent.sock", "err", err)
}

// waitReady waits for the agent's hello.
func (m *machine) waitReady(ctx context.Context) error {
	if m.cloned {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { m.hello.Close() })
	defer stop()
	conn, err := m.hello.Accept()
	if err != nil {
		return fmt.Errorf("wait for the agent: %w", err)
	}
	defer conn.Close()
	// No other connection from the guest is expected, ever.
	if err := m.hello.Close(); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	if err := protocol.ReadHello(conn); err != nil {
		return fmt.Errorf("wait for the agent: %w", err)
	}
	return nil
}

// helloTimeout bounds the reading of the one line, which a busy host may delay.
const helloTimeout = time.Minute

func (m *machine) dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.vsock.Dial(ctx, port)
}

// state is the container's state for a hook.
func (p *process) state(status specs.ContainerState) *specs.State {
	s := *p.boot.State
	s.Status = status
	return &s
}

// guestSpec is the configuration for the agent.
func (p *process) guestSpec() ([]byte, error) {
	spec, err := json.Marshal(p.boot.Plan.Spec)
	if err != nil {
		return nil, err
	}
	if len(spec) > maxSpec {
		return nil, fmt.Errorf("the configuration is too large for the guest: %d bytes, at most %d", len(spec), maxSpec)
	}
	return spec, nil
}
