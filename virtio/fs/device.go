// Package fs is the virtio file system device (virtio 1.2, section 5.11): a
// directory of the host as the guest's FUSE file system. What a request can do
// is decided in package passthrough.
package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/fs/passthrough"
)

const (
	deviceID = 26

	// tagSize is the size of the tag in the configuration space, which ends
	// in num_request_queues (section 5.11.4). The tag need not end in a NUL.
	tagSize    = 36
	configSize = tagSize + 4

	// hiprioSize and requestSize are queue sizes. A Linux driver takes a
	// request to need as many entries as it has pages, and some.
	hiprioSize  = 128
	requestSize = 1024

	defaultWorkers = 16
	maxWorkers     = 256
	maxQueues      = 64

	// drainTimeout bounds the wait for requests at a reset.
	drainTimeout = 5 * time.Second
)

// Options describe the device. Tag and Root are required.
type Options struct {
	// Tag is the name the guest mounts the share by, up to 36 bytes.
	Tag string

	// Root is the directory to serve, opened with O_PATH or for reading. It is
	// duplicated.
	Root *os.File

	// Proc is that of passthrough.Options.
	Proc *os.File

	// ReadOnly refuses everything that modifies the share with EROFS.
	ReadOnly bool

	// Unmapped is that of passthrough.Options.
	Unmapped map[uint64]passthrough.Unmapped

	// DeviceNodes, EntryTimeout, AttrTimeout, NegativeTimeout, MaxDescriptors
	// and MaxInodes are those of passthrough.Options. Several devices in one
	// process have to share its descriptors, so there MaxDescriptors is needed.
	DeviceNodes                                bool
	EntryTimeout, AttrTimeout, NegativeTimeout time.Duration
	MaxDescriptors, MaxInodes                  int

	// Queues is the number of request queues; zero means one.
	Queues int

	// Workers is how many requests of one queue are served at the same time;
	// zero means 16.
	Workers int

	Log *slog.Logger
}

// Device is a virtio-fs device.
type Device struct {
	config  [configSize]byte
	queues  int
	workers int
	fs      *passthrough.FS
	server  *server
	log     *slog.Logger

	// stuck counts workers that a reset did not wait for any longer.
	stuck atomic.Int64

	mu     sync.Mutex
	active *activation
	closed bool
}

var _ virtio.Device = (*Device)(nil)

// New makes a device. It is to be called before the process changes its root
// directory, as it and go-fuse read /proc; afterwards the device opens nothing
// but what is beneath opts.Root. It sets the process's umask to 0.
func New(opts Options) (*Device, error) {
	switch {
	case opts.Tag == "" || len(opts.Tag) > tagSize || strings.IndexByte(opts.Tag, 0) >= 0:
		return nil, fmt.Errorf("fs: tag %q is not 1 to %d bytes without NUL", opts.Tag, tagSize)
	case opts.Queues < 0 || opts.Queues > maxQueues:
		return nil, fmt.Errorf("fs: %d queues: at most %d", opts.Queues, maxQueues)
	case opts.Workers < 0 || opts.Workers > maxWorkers:
		return nil, fmt.Errorf("fs: %d workers: at most %d", opts.Workers, maxWorkers)
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	fsys, err := passthrough.New(passthrough.Options{
		Unmapped:        opts.Unmapped,
		Root:            opts.Root,
		Proc:            opts.Proc,
		ReadOnly:        opts.ReadOnly,
		DeviceNodes:     opts.DeviceNodes,
		EntryTimeout:    opts.EntryTimeout,
		AttrTimeout:     opts.AttrTimeout,
		NegativeTimeout: opts.NegativeTimeout,
		MaxDescriptors:  opts.MaxDescriptors,
		MaxInodes:       opts.MaxInodes,
		Log:             log,
	})
	if err != nil {
		return nil, fmt.Errorf("fs: %w", err)
	}
	server, err := newServer(fsys, log)
	if err != nil {
		return nil, errors.Join(err, fsys.Close())
	}
	d := &Device{
		queues:  max(opts.Queues, 1),
		workers: opts.Workers,
		fs:      fsys,
		server:  server,
		log:     log,
	}
	if d.workers == 0 {
		d.workers = defaultWorkers
	}
	copy(d.config[:tagSize], opts.Tag)
	binary.LittleEndian.PutUint32(d.config[tagSize:], uint32(d.queues))
	return d, nil
}

// Descriptors are those that the device has open before it is activated.
func (d *Device) Descriptors() []int { return d.fs.Descriptors() }

// DeviceID implements virtio.Device.
func (d *Device) DeviceID() uint32 { return deviceID }

// Features implements virtio.Device. There is no notification queue.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device: the hiprio queue comes first.
func (d *Device) QueueSizes() []uint16 {
	sizes := []uint16{hiprioSize}
	for range d.queues {
		sizes = append(sizes, requestSize)
	}
	return sizes
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset uint64, p []byte) {
	clear(p)
	if offset < configSize {
		copy(p, d.config[offset:])
	}
}

// WriteConfig implements virtio.Device: nothing is writable.
func (d *Device) WriteConfig(uint64, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return errors.New("fs: closed")
	case d.active != nil:
		return errors.New("fs: active already")
	case d.stuck.Load() > int64(4*d.workers*d.queues):
		return errors.New("fs: the host's file system does not answer")
	}
	d.active = d.start(a)
	return nil
}

// Reset implements virtio.Device. Requests which the host's file system does
// not finish within 5 seconds are left behind: they do not reply any more.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reset()
}

func (d *Device) reset() {
	if d.active == nil {
		return
	}
	if left := d.active.stop(); left > 0 {
		d.log.Warn("virtio-fs: reset with requests under way", "requests", left)
	}
	d.active = nil
	d.server.reset()
}

// Close resets the device and closes all descriptors. It fails if the host's
// file system still holds requests: then their descriptors stay open, and
// guest memory must stay mapped.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.reset()
	if n := d.stuck.Load(); n > 0 {
		return fmt.Errorf("fs: %d requests do not end", n)
	}
	return d.fs.Close()
}
