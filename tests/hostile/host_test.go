package hostile

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio"
	"runv.dev/runv/virtio/balloon"
	"runv.dev/runv/virtio/console"
	"runv.dev/runv/virtio/fs"
	"runv.dev/runv/virtio/rng"
	"runv.dev/runv/virtio/vsock"
)

// What a guest can ask for; see guest/lib.h.
const (
	askDial = iota + 1
	askDialBusy
	askDialled
	askHangUp
	askSwap
	askSwapStop
	askReceived
	askConsole
	askResetEvent
	askRAMTop
	askSuidMode
	askSuidCaps
	askNodes
	askEchoPort
	askTrapPort
	askTrapped
	askSockets
	askVisit
)

// Limits of the device that a guest runs into.
const (
	maxDescriptors = 256
	maxInodes      = 1000
	maxConns       = 64
	listenPort     = 1024 // accepted, and read
	backlogPort    = 1025 // never accepted
	dialPort       = 5000
	shareFile      = "suid"
)

// host is the host's side of a VM: its devices, and what the test does to them
// on the guest's request.
type host struct {
	job     *job
	monitor *monitor
	console *console.Device
	out     *countingWriter
	share   *fs.Device
	ro      *fs.Device
	vsock   *vsock.Device
	balloon *balloon.Device
	network *network

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	dialling            atomic.Bool
	dialled             atomic.Bool
	hangUp, stopSwap    context.CancelFunc
	received, swapCount atomic.Uint64
}

func newHost(j *job, log *slog.Logger) (*host, error) {
	h := &host{job: j, hangUp: func() {}, stopSwap: func() {}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.monitor = newMonitor(h.ask)
	h.balloon = balloon.New(log)
	h.out = newCountingWriter(j.Case.Stalled)
	h.console = console.New(
		console.Port{Console: true, Out: h.out},
		console.Port{Name: "log", Out: h.out.other()},
		console.Port{Name: "input", In: zeros{}},
	)
	var err error
	if h.share, err = newShare(filepath.Join(j.Dir, "rw"), false, log); err != nil {
		return nil, err
	}
	if h.ro, err = newShare(filepath.Join(j.Dir, "ro"), true, log); err != nil {
		return nil, err
	}
	h.vsock = vsock.New(vsock.Options{CID: 3, MaxConns: maxConns, MaxBuffer: 4 << 20, CloseTimeout: time.Second, Log: log})
	listener, err := h.vsock.Listen(listenPort)
	if err != nil {
		return nil, err
	}
	backlog, err := h.vsock.Listen(backlogPort)
	if err != nil {
		return nil, err
	}
	if h.network, err = newNetwork(h.vsock, log); err != nil {
		return nil, err
	}
	h.tasks.Go(func() { h.accept(listener) })
	context.AfterFunc(h.ctx, func() {
		listener.Close()
		backlog.Close()
	})
	return h, nil
}

func newShare(dir string, readOnly bool, log *slog.Logger) (*fs.Device, error) {
	root, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return fs.New(fs.Options{
		Tag: "share", Root: root, ReadOnly: readOnly,
		MaxDescriptors: maxDescriptors, MaxInodes: maxInodes, Workers: 4, Log: log,
	})
}

// devices are found by their ids; the monitor is the first.
func (h *host) devices() []virtio.Device {
	return []virtio.Device{h.monitor, rng.New(rand.Reader), h.console, h.share, h.ro, h.vsock, h.balloon}
}

func neighbourDevices(m *monitor) []virtio.Device {
	return []virtio.Device{m, rng.New(rand.Reader)}
}

// close ends what the test does, after the VM.
func (h *host) close() error {
	h.cancel()
	h.out.release()
	h.tasks.Wait()
	return errors.Join(h.network.close(), h.share.Close(), h.ro.Close())
}

// accept reads what the guest sends to the listener.
func (h *host) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		h.tasks.Go(func() {
			defer context.AfterFunc(h.ctx, func() { conn.Close() })()
			defer conn.Close()
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				h.received.Add(uint64(n))
				if err != nil {
					return
				}
			}
		})
	}
}

// ask answers a guest, whose question has an argument above its lowest byte.
func (h *host) ask(question uint32) uint32 {
	switch what, argument := question&0xff, question>>8; what {
	case askDial:
		ctx, cancel := context.WithTimeout(h.ctx, 2*time.Second)
		h.hangUp = cancel
		h.dialling.Store(true)
		h.dialled.Store(false)
		h.tasks.Go(func() {
			defer h.dialling.Store(false)
			defer cancel()
			h.dial(ctx)
		})
	case askDialBusy:
		return truth(h.dialling.Load())
	case askDialled:
		return truth(h.dialled.Load())
	case askHangUp:
		h.hangUp()
	case askSwap:
		ctx, cancel := context.WithCancel(h.ctx)
		h.stopSwap = cancel
		h.tasks.Go(func() { h.swap(ctx) })
	case askSwapStop:
		h.stopSwap()
		return uint32(h.swapCount.Load())
	case askReceived:
		return uint32(h.received.Load())
	case askConsole:
		return uint32(h.out.n.Load())
	case askResetEvent:
		h.vsock.TransportReset(3)
	case askRAMTop:
		return uint32(min(h.job.Case.MemoryMiB, 3<<10))
	case askSuidMode:
		var st unix.Stat_t
		if unix.Stat(filepath.Join(h.job.Dir, "rw", shareFile), &st) != nil {
			return ^uint32(0)
		}
		return st.Mode & 0o7777
	case askSuidCaps:
		n, err := unix.Getxattr(filepath.Join(h.job.Dir, "rw", shareFile), "security.capability", nil)
		return truth(err == nil && n > 0)
	case askNodes:
		return uint32(specialFiles(filepath.Join(h.job.Dir, "rw")))
	case askEchoPort:
		return uint32(h.network.echo.port())
	case askTrapPort:
		return uint32(h.network.trap.port())
	case askTrapped:
		return h.network.trapped.Load()
	case askSockets:
		return h.network.sockets()
	case askVisit:
		h.network.visit(uint16(argument))
	}
	return 0
}

func truth(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// dial connects to the guest and sends for as long as the guest takes it.
func (h *host) dial(ctx context.Context) {
	conn, err := h.vsock.Dial(ctx, dialPort)
	if err != nil {
		return
	}
	h.dialled.Store(true)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 64<<10)
	for range 64 {
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// swap exchanges the directory "swap" of the share with a link that leads out
// of it, over and over.
func (h *host) swap(ctx context.Context) {
	dir, link := filepath.Join(h.job.Dir, "rw", "swap"), filepath.Join(h.job.Dir, "rw", "swap.link")
	for ctx.Err() == nil {
		if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
			return
		}
		h.swapCount.Add(1)
	}
}

// zeros is input without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// countingWriter counts what is written to it; a stalled one takes nothing
// until it is released.
type countingWriter struct {
	n       atomic.Uint64
	stalled bool
	free    chan struct{}
	once    sync.Once
}

func newCountingWriter(stalled bool) *countingWriter {
	return &countingWriter{stalled: stalled, free: make(chan struct{})}
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.stalled {
		<-w.free
	}
	w.n.Add(uint64(len(p)))
	return len(p), nil
}

// other is a writer which is stalled or not as w is, and does not count.
func (w *countingWriter) other() io.Writer { return &otherWriter{w} }

type otherWriter struct{ w *countingWriter }

func (o *otherWriter) Write(p []byte) (int, error) {
	if o.w.stalled {
		<-o.w.free
	}
	return len(p), nil
}

func (w *countingWriter) release() { w.once.Do(func() { close(w.free) }) }
