package vmprocess

import (
	"errors"
	"fmt"

	"runv.dev/runv/agent/protocol"
	"runv.dev/runv/internal/assets"
	"runv.dev/runv/internal/checkpoint"
	"runv.dev/runv/internal/sandbox"
	"runv.dev/runv/internal/template"
	"runv.dev/runv/vmm"
)

// source is what the guest begins with: a template, or the kernel and initrd to
// boot.
type source struct {
	process  *process
	image    *checkpoint.Image  // nil: none
	template *template.Template // nil: none
	assets   *assets.Assets     // nil: not opened
}

// shape is what a template for this container has to be like.
func (p *process) shape() template.Shape {
	return template.Shape{
		MemoryBytes: p.boot.Plan.Machine.MemoryBytes,
		VCPUs:       p.boot.Plan.Machine.VCPUs,
		Kernel:      p.boot.Kernel,
		Initrd:      p.boot.Initrd,
	}
}

// openSource opens what a machine can be made of. Without a template that fits,
// and can be trusted, the guest boots.
func (p *process) openSource() (*source, error) {
	s := &source{process: p}
	if p.boot.Image != "" {
		var err error
		s.image, err = checkpoint.Open(p.boot.Image)
		p.trace("checkpoint opened")
		return s, err
	}
	if p.boot.Templates != "" {
		key, err := p.shape().MakeKey()
		if err == nil {
			s.template, err = template.NewStore(p.boot.Templates).Open(key)
		}
		if err == nil {
			p.trace("template opened")
			return s, nil
		}
		p.cold = &sandbox.ColdBoot{Reason: err.Error()}
	}
	guest, err := openAssets(p.boot.Kernel, p.boot.Initrd)
	if err != nil {
		return nil, err
	}
	s.assets = guest
	p.trace("kernel opened")
	return s, nil
}

// make makes the machine.
func (s *source) make(m *machine, cfg vmm.Config) (*vmm.VM, error) {
	if s.image != nil {
		return m.restore(s.image, cfg)
	}
	if s.template != nil {
		clone := cfg
		clone.Snapshot = &s.template.Snapshot
		vm, err := vmm.New(clone)
		if err == nil {
			m.cloned = true
			return vm, nil
		}
		s.process.cold = &sandbox.ColdBoot{Reason: fmt.Sprintf("the template is refused: %v", err), Refused: true}
		if s.assets, err = openAssets(s.process.boot.Kernel, s.process.boot.Initrd); err != nil {
			return nil, err
		}
	}
	return m.boot(s.assets, cfg)
}

// boot makes a machine that boots.
func (m *machine) boot(guest *assets.Assets, cfg vmm.Config) (*vmm.VM, error) {
	// The agent reports as soon as it can, so the host listens before.
	var err error
	if m.hello, err = m.vsock.Listen(protocol.HelloPort); err != nil {
		return nil, err
	}
	if cfg.Kernel, err = guest.Kernel(); err != nil {
		return nil, err
	}
	if cfg.Initrd, err = guest.Initrd(); err != nil {
		return nil, err
	}
	return vmm.New(cfg)
}

// restore makes a machine that goes on from a checkpoint.
func (m *machine) restore(image *checkpoint.Image, cfg vmm.Config) (*vmm.VM, error) {
	cfg.Snapshot = image.Snapshot()
	vm, err := vmm.New(cfg)
	if err != nil {
		return nil, err
	}
	if err := image.Check(); err != nil {
		return nil, errors.Join(err, vm.Close())
	}
	m.cloned, m.saved = true, image
	// Nobody is at the other end of its connections.
	m.vsock.TransportReset(guestCID)
	return vm, nil
}

// Close closes the files; the machine does not need them any more.
func (s *source) Close() error {
	var errs []error
	if s.image != nil {
		errs = append(errs, s.image.Close())
	}
	if s.template != nil {
		errs = append(errs, s.template.Close())
	}
	if s.assets != nil {
		errs = append(errs, s.assets.Close())
	}
	return errors.Join(errs...)
}
