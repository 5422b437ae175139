package vmprocess

import (
	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/netmirror"
	"runv.dev/runv/internal/sandbox"
)

// openNetwork prepares the network namespace and opens what it takes to show it
// to the guest.
func (p *process) openNetwork() (*netmirror.Mirror, error) {
	if err := sandbox.PrepareNetwork(p.boot.Plan, p.boot.HostNetworks); err != nil {
		return nil, err
	}
	return netmirror.Open(p.log.With("device", "network"))
}

// followNetwork keeps the guest's devices like those of the namespace, which
// engines change while a container runs.
func (c *container) followNetwork(last *protocol.Network) {
	ctx := c.machine.guest
	err := c.machine.mirror.Follow(ctx, last, func(n *protocol.Network) error {
		warnings, err := c.client.SetNetwork(ctx, n)
		c.warn(warnings)
		return err
	})
	if ctx.Err() == nil {
		c.log.Error("follow the network namespace", "err", err)
	}
}

func (p *process) warn(warnings []string) {
	for _, w := range warnings {
		p.log.Warn(w, "from", "guest")
	}
}
