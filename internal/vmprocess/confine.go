package vmprocess

import (
	"slices"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/virtio/fs"
)

// confine enters the root and closes the cage. Nothing of the guest has been
// executed yet.
func (p *process) confine(root *sandbox.Root, share *fs.Device, m *machine, lacks []string) error {
	plan := p.boot.Plan
	keep, err := p.in.Descriptors()
	if err != nil {
		return err
	}
	for _, fd := range share.Descriptors() {
		keep[fd] = "share"
	}
	for _, fd := range m.vm.Descriptors() {
		keep[fd] = "page map"
	}
	rtnetlink, err := m.mirror.Descriptors()
	if err != nil {
		return err
	}
	for _, fd := range rtnetlink {
		keep[fd] = "rtnetlink"
	}
	keep[int(root.Dir.Fd())] = "root"
	replaced, err := cage.Seal(keep)
	if err != nil {
		return err
	}
	for _, fd := range replaced {
		p.log.Warn("a descriptor that is not in the list was closed", "fd", fd)
	}
	for _, layer := range lacks {
		p.log.Warn("a layer around the VM process is missing on this host: " + layer + ": see runv check")
	}
	if err := root.Enter(); err != nil {
		return err
	}
	if err := root.Dir.Close(); err != nil {
		return err
	}
	bounding := plan.Spec.Process.Capabilities
	landlock, err := cage.Close(cage.Options{
		ReadOnly:    plan.ReadOnlyShare(),
		DeviceNodes: plan.DeviceNodes && !plan.ReadOnlyShare(),
		Network:     true,
		LowPorts:    bounding != nil && slices.Contains(bounding.Bounding, "CAP_NET_BIND_SERVICE"),
		Lacks:       lacks,
		Require:     plan.RequireCage,
	})
	if err != nil {
		return err
	}
	p.log.Debug("cage", "landlock", landlock, "lacks", lacks)
	p.trace("confined")
	return nil
}
