package vmm

import (
	"errors"

	"runv.dev/runv/internal/eventfd"
	"runv.dev/runv/vmm/kvm"
)

// newIRQ makes an eventfd whose signals raise a GSI.
func newIRQ(vm *kvm.VM, gsi uint32) (*eventfd.EventFD, error) {
	e, err := eventfd.New()
	if err != nil {
		return nil, err
	}
	if err := vm.AssignIRQFD(e.FD(), gsi); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}
