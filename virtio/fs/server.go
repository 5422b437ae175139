package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"runv.dev/runv/internal/logging"
	"runv.dev/runv/virtio/fs/passthrough"
	"runv.dev/runv/virtio/virtqueue"
)

const (
	// offered are capabilities beyond those go-fuse asks for by itself.
	offered = fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_READDIRPLUS_AUTO |
		fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SUBMOUNTS | fuse.CAP_SETXATTR_EXT | fuse.CAP_ASYNC_DIO

	// refused are capabilities that go-fuse would accept: files of the
	// client's kernel, opens without a handle, ids that the mount maps.
	refused = fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_ALLOW_IDMAP

	// required are those without which requests would look different.
	required = fuse.CAP_INIT_EXT | fuse.CAP_BIG_WRITES | fuse.CAP_MAX_PAGES | fuse.CAP_SETXATTR_EXT | fuse.CAP_DONT_MASK

	// maxBackground bounds the client's asynchronous requests.
	maxBackground = 64

	protocolMajor = 7
	minMinor      = 36 // Linux 5.17: INIT with 64 flags
)

// server answers FUSE requests in descriptor chains. go-fuse knows the wire
// format of most; before it sees a request that is copied out of guest memory,
// and its length and the room for the reply are checked, as go-fuse does not
// do all of that. READ and WRITE, served here, move data between files and
// guest memory without a copy.
type server struct {
	fs    *passthrough.FS
	proto *fuse.ProtocolServer
	init  fuse.InitOut     // what a client with every capability gets
	noise *logging.Limited // what a client can cause

	ready  atomic.Bool // between INIT and DESTROY
	panics atomic.Int64
}

func newServer(fsys *passthrough.FS, log *slog.Logger) (*server, error) {
	s := &server{fs: fsys, noise: logging.NewLimited(log)}
	s.proto = fuse.NewProtocolServer(fsys, &fuse.MountOptions{
		Name:                 "runv",
		MaxWrite:             maxWrite,
		MaxBackground:        maxBackground,
		EnableAcl:            true,
		EnableSymlinkCaching: true,
		ExtraCapabilities:    offered,
		DisabledCapabilities: refused,
		PanicHandler:         s.panicked,
		Logger:               newNoiseLogger(s),
	})
	return s, s.negotiate()
}

// negotiate has go-fuse settle on all that is offered, once and before there
// is a client: it keeps no lock on what it negotiated.
func (s *server) negotiate() error {
	in := fuse.InitIn{Major: protocolMajor, Minor: minMinor, MaxReadAhead: maxWrite, Flags: ^uint32(0), Flags2: ^uint32(0)}
	in.Opcode = opInit
	in.Length = uint32(size(in))
	reply := make([]byte, outHeaderSize+size(s.init))
	n, st := s.proto.HandleRequest([][]byte{bytesOf(&in)}, [][]byte{reply})
	if n != len(reply) || st != fuse.OK || binary.LittleEndian.Uint32(reply[4:]) != 0 {
		return fmt.Errorf("fs: go-fuse does not answer INIT: %d bytes, %v", n, st)
	}
	copy(bytesOf(&s.init), reply[outHeaderSize:])
	if s.init.MaxWrite != maxWrite || s.init.Flags64()&offered != offered {
		return errors.New("fs: go-fuse does not negotiate what is offered")
	}
	return nil
}

// request is one request under way, and a worker's memory for it.
type request struct {
	head     fuse.InHeader
	readable [][]byte
	writable [][]byte
	total    int // readable bytes
	room     int // writable bytes

	in, out []byte
	iov     [][]byte

	// commit runs what writes the reply to guest memory, unless that is not
	// ours any more.
	commit func(func())
}

// handle serves a chain and returns how many bytes of the reply it wrote.
// What is not a request at all gets no reply.
func (s *server) handle(r *request) (written int) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			written = s.fail(r, unix.EIO)
		}
	}()
	r.total, r.room = virtqueue.Len(r.readable), virtqueue.Len(r.writable)
	if virtqueue.CopyOut(bytesOf(&r.head), r.readable) < inHeaderSize {
		s.complain("request without a header", r)
		return 0
	}
	if noReply(r.head.Opcode) {
		s.forget(r)
		return 0
	}
	if r.room < outHeaderSize {
		s.complain("no room for a reply", r)
		return 0
	}
	op, ok := operationOf(r.head.Opcode)
	if !ok {
		return s.fail(r, unix.ENOSYS)
	}
	if err := s.check(r, op); err != 0 {
		return s.fail(r, err)
	}
	switch r.head.Opcode {
	case opInit:
		return s.hello(r)
	case opDestroy:
		s.reset()
		return s.fail(r, 0)
	case opLookup:
		return s.lookup(r)
	case opGetattr:
		return s.getattr(r)
	case opRead:
		return s.read(r)
	case opWrite:
		return s.write(r)
	case opIoctl:
		// A command is a number whose effects on the host nobody can bound.
		return s.fail(r, unix.ENOTTY)
	case opSyncfs:
		return s.fail(r, unix.Errno(s.fs.SyncFS(r.head.NodeId)))
	}
	return s.forward(r, op)
}

// check refuses what is not a well-formed request at this time.
func (s *server) check(r *request, op operation) unix.Errno {
	limit := maxRequest
	if r.head.Opcode == opWrite {
		limit = op.in + maxWrite
	}
	switch {
	case int64(r.head.Length) != int64(r.total), r.total < op.in, r.total > limit, r.head.TotalExtlen != 0:
		s.complain("malformed request", r)
		return unix.EINVAL
	case r.head.NodeId == ^uint64(0):
		// Here go-fuse has an inode of its own.
		return unix.ESTALE
	case r.room < outHeaderSize+op.out && !op.sizeOnly:
		s.complain("no room for the reply", r)
		return unix.EINVAL
	}
	if r.head.Opcode != opInit && !s.ready.Load() {
		return unix.ENOTCONN
	}
	return 0
}

// hello answers INIT.
func (s *server) hello(r *request) int {
	var in fuse.InitIn
	virtqueue.CopyOut(bytesOf(&in), r.readable)
	if in.Major != protocolMajor || in.Minor < minMinor || in.Flags64()&required != required {
		s.complain("FUSE client is too old", r)
		return s.fail(r, unix.EPROTO)
	}
	if !s.ready.CompareAndSwap(false, true) {
		s.complain("INIT twice", r)
		return s.fail(r, unix.EINVAL)
	}
	out := s.init
	flags := out.Flags64() & in.Flags64()
	out.Flags, out.Flags2 = uint32(flags), uint32(flags>>32)
	out.MaxReadAhead = in.MaxReadAhead
	return s.reply(r, bytesOf(&out))
}

// reset ends the session: all that the client held is let go.
func (s *server) reset() {
	s.ready.Store(false)
	s.fs.Clear()
}

// forget serves the requests which have no reply. FORGET and BATCH_FORGET
// come on the hiprio queue; INTERRUPT means nothing, as no request waits for
// anything but the host's file system.
func (s *server) forget(r *request) {
	switch r.head.Opcode {
	case opForget:
		var in fuse.ForgetIn
		if virtqueue.CopyOut(bytesOf(&in), r.readable) == size(in) {
			s.fs.Forget(r.head.NodeId, in.Nlookup)
		}
	case opBatchForget:
		rd := virtqueue.NewReader(r.readable)
		var fixed [inHeaderSize + 8]byte
		if n, _ := rd.Read(fixed[:]); n < len(fixed) {
			return
		}
		count := min(binary.LittleEndian.Uint32(fixed[inHeaderSize:]), maxBatchForget)
		for range count {
			var one [forgetOneSize]byte
			if n, _ := rd.Read(one[:]); n < len(one) {
				return
			}
			s.fs.Forget(binary.LittleEndian.Uint64(one[0:]), binary.LittleEndian.Uint64(one[8:]))
		}
	}
}

// lookup and getattr are most of what a client asks, so they are short cuts
// around go-fuse.
func (s *server) lookup(r *request) int {
	r.in = grow(r.in, r.total)
	virtqueue.CopyOut(r.in, r.readable)
	name, _, _ := bytes.Cut(r.in[inHeaderSize:], []byte{0})
	var out fuse.EntryOut
	if st := s.fs.Lookup(nil, &r.head, string(name), &out); st != fuse.OK {
		return s.fail(r, unix.Errno(st))
	}
	return s.reply(r, bytesOf(&out))
}

func (s *server) getattr(r *request) int {
	var in fuse.GetAttrIn
	virtqueue.CopyOut(bytesOf(&in), r.readable)
	in.InHeader = r.head
	var out fuse.AttrOut
	if st := s.fs.GetAttr(nil, &in, &out); st != fuse.OK {
		return s.fail(r, unix.Errno(st))
	}
	return s.reply(r, bytesOf(&out))
}

func (s *server) read(r *request) int {
	var in fuse.ReadIn
	virtqueue.CopyOut(bytesOf(&in), r.readable)
	in.InHeader = r.head
	n := min(int(in.Size), maxWrite, r.room-outHeaderSize)
	r.iov = slices(r.iov[:0], r.writable, outHeaderSize, n)
	n, st := s.fs.ReadInto(&in, r.iov)
	if st != fuse.OK {
		return s.fail(r, unix.Errno(st))
	}
	return s.header(r, outHeaderSize+n, 0)
}

func (s *server) write(r *request) int {
	var in fuse.WriteIn
	n := virtqueue.CopyOut(bytesOf(&in), r.readable)
	in.InHeader = r.head
	if uint64(in.Size) != uint64(r.total-n) {
		s.complain("malformed request", r)
		return s.fail(r, unix.EINVAL)
	}
	r.iov = slices(r.iov[:0], r.readable, n, int(in.Size))
	written, st := s.fs.Writev(nil, &in, r.iov)
	if st != fuse.OK {
		return s.fail(r, unix.Errno(st))
	}
	out := fuse.WriteOut{Size: written}
	return s.reply(r, bytesOf(&out))
}

// forward has go-fuse serve a copy of the request.
func (s *server) forward(r *request, op operation) int {
	r.in = grow(r.in, r.total)
	virtqueue.CopyOut(r.in, r.readable)
	le := binary.LittleEndian
	// The copy is made again, so only what was checked is kept of the first.
	copy(r.in, bytesOf(&r.head))
	if r.head.NodeId == fuse.FUSE_ROOT_ID {
		// In its own root go-fuse has a name of its own.
		le.PutUint64(r.in[16:], passthrough.RootAlias)
	}
	need := outHeaderSize + op.out + op.data
	if op.sizeAt != 0 {
		want := int(min(le.Uint32(r.in[op.sizeAt:]), maxReply))
		if want > r.room-outHeaderSize {
			s.complain("no room for the reply", r)
			return s.fail(r, unix.EINVAL)
		}
		le.PutUint32(r.in[op.sizeAt:], uint32(want))
		need = outHeaderSize + max(op.out, want)
		if want == 0 && r.room < need {
			return s.fail(r, unix.EINVAL)
		}
	}
	r.out = grow(r.out, need)
	n, _ := s.proto.HandleRequest([][]byte{r.in}, [][]byte{r.out})
	if n < outHeaderSize || n > r.room {
		return s.fail(r, unix.EIO)
	}
	le.PutUint32(r.out, uint32(n))
	le.PutUint64(r.out[8:], r.head.Unique)
	r.commit(func() { virtqueue.CopyIn(r.writable, r.out[:n]) })
	return n
}

// reply writes a reply with a structure.
func (s *server) reply(r *request, body []byte) int {
	n := outHeaderSize + len(body)
	r.out = grow(r.out, n)
	putHeader((*[outHeaderSize]byte)(r.out), n, 0, r.head.Unique)
	copy(r.out[outHeaderSize:], body)
	r.commit(func() { virtqueue.CopyIn(r.writable, r.out) })
	return n
}

// fail writes a reply which is only a header.
func (s *server) fail(r *request, errno unix.Errno) int {
	if noReply(r.head.Opcode) || r.room < outHeaderSize {
		return 0
	}
	s.header(r, outHeaderSize, errno)
	return outHeaderSize
}

func (s *server) header(r *request, length int, errno unix.Errno) int {
	var b [outHeaderSize]byte
	putHeader(&b, length, errno, r.head.Unique)
	r.commit(func() { virtqueue.CopyIn(r.writable, b[:]) })
	return length
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, max(n, 4<<10))
	}
	return b[:n]
}

// complain logs what a client did wrong, now and then.
func (s *server) complain(what string, r *request) {
	s.noise.Warn("virtio-fs: "+what, "opcode", r.head.Opcode, "length", r.head.Length,
		"readable", r.total, "writable", r.room)
}

// panicked keeps a mistake of ours from ending the VM.
func (s *server) panicked(p any) fuse.Status {
	s.panics.Add(1)
	s.noise.Error("virtio-fs: a request failed", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fuse.EIO
}

// newNoiseLogger makes go-fuse's log, whose lines are limited like our own.
func newNoiseLogger(s *server) *log.Logger { return log.New(noiseWriter{s}, "", 0) }

type noiseWriter struct{ s *server }

func (w noiseWriter) Write(p []byte) (int, error) {
	w.s.noise.Warn("virtio-fs: go-fuse", "message", string(p[:min(len(p), 200)]))
	return len(p), nil
}
