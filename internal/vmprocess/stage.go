package vmprocess

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/fs"
	"runv.dev/runv/vmm"
)

// prepareTimeout bounds the boot of a template, and the rehearsal. Nobody waits
// for it, and others may have more of the host's processors.
const prepareTimeout = 10 * time.Minute

// stage is where a template's guest plays: a machine whose share has what the
// rehearsal's container needs, and no more.
type stage struct {
	machine *machine
	devices []virtio.Device
	share   *fs.Device
	dir     string
}

func openStage(log *slog.Logger) (_ *stage, err error) {
	s := &stage{}
	if s.dir, err = os.MkdirTemp("", "runv-template-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, name := range []string{"proc", "dev", "sys"} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, rehearsalID), program, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenFile(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if s.share, err = fs.New(fs.Options{Tag: rootTag, Root: root, ReadOnly: true, Log: log}); err != nil {
		return nil, err
	}
	p := &process{log: log, console: &ring{max: 64 << 10}, begun: time.Now()}
	s.machine, s.devices = p.newMachine(s.share)
	return s, nil
}

// Close removes the directory; the machine is closed by now.
func (s *stage) Close() error {
	var err error
	if s.share != nil {
		err = s.share.Close()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// play runs the machine until its guest has done what f waits for, and pauses it.
func (s *stage) play(ctx context.Context, vm *vmm.VM, f func(context.Context) error) error {
	m := s.machine
	go m.run(vm)
	ctx, cancel := context.WithTimeoutCause(ctx, prepareTimeout,
		fmt.Errorf("the guest was not ready within %v", prepareTimeout))
	defer cancel()
	stop := context.AfterFunc(m.guest, cancel)
	defer stop()
	err := f(ctx)
	if err == nil {
		m.process.trace("rehearsed")
		err = vm.Pause()
	}
	if err != nil {
		err = m.process.whyNot(ctx, m, err)
	}
	return err
}
