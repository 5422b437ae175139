package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"runv.dev/runv/virtio/virtiotest"
)

const (
	hiprio = 0
	first  = 1 // request queue
)

// message is a request: a header, and what follows it.
func message(opcode uint32, node uint64, parts ...any) []byte {
	var b bytes.Buffer
	b.Write(make([]byte, inHeaderSize))
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b.WriteString(p)
			b.WriteByte(0)
		case []byte:
			b.Write(p)
		case int:
			b.Write(make([]byte, p))
		default:
			if err := binary.Write(&b, binary.LittleEndian, p); err != nil {
				panic(err)
			}
		}
	}
	m := b.Bytes()
	binary.LittleEndian.PutUint32(m[0:], uint32(len(m)))
	binary.LittleEndian.PutUint32(m[4:], opcode)
	binary.LittleEndian.PutUint64(m[8:], 0x1234567800000000|uint64(opcode))
	binary.LittleEndian.PutUint64(m[16:], node)
	return m
}

// body is a structure of the protocol without the header it starts with.
func body(v any) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
	return b.Bytes()[inHeaderSize:]
}

func initMessage() []byte {
	return message(opInit, 0, body(fuse.InitIn{Major: 7, Minor: 41, MaxReadAhead: 128 << 10, Flags: ^uint32(0), Flags2: ^uint32(0)}))
}

// guest is a driver with a FUSE client that trusts its device.
type guest struct {
	*virtiotest.Driver
	t   testing.TB
	dir string
	dev *Device
}

func newGuest(t testing.TB, opts Options) *guest {
	t.Helper()
	dir := t.TempDir()
	opts.Tag = "rootfs"
	opts.Root = openDir(t, dir)
	dev, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	g := &guest{t: t, dir: dir, dev: dev}
	g.Driver = virtiotest.Start(t, dev, virtiotest.Options{MemoryBytes: 8 << 20})
	return g
}

// call sends a request and returns the reply's status and data.
func (g *guest) call(m []byte, room int) (unix.Errno, []byte) {
	g.t.Helper()
	return reply(g.t, m, g.Queues[first].Do(m, room))
}

func reply(t testing.TB, m, out []byte) (unix.Errno, []byte) {
	t.Helper()
	if len(out) < outHeaderSize {
		t.Fatalf("opcode %d: reply of %d bytes", m[4], len(out))
	}
	if n := binary.LittleEndian.Uint32(out); int(n) != len(out) {
		t.Fatalf("opcode %d: reply says %d bytes and has %d", m[4], n, len(out))
	}
	if !bytes.Equal(out[8:16], m[8:16]) {
		t.Fatalf("opcode %d: reply to request %x", m[4], out[8:16])
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(out[4:]))), out[outHeaderSize:]
}

func (g *guest) mount() {
	g.t.Helper()
	if errno, _ := g.call(initMessage(), 200); errno != 0 {
		g.t.Fatalf("INIT: %v", errno)
	}
}

func decode[T any](t testing.TB, data []byte) (v T) {
	t.Helper()
	if b := bytesOf(&v); copy(b, data) < len(b) {
		t.Fatalf("%d bytes are too few for a %T", len(data), v)
	}
	return v
}

func (g *guest) lookup(dir uint64, name string) fuse.EntryOut {
	g.t.Helper()
	errno, data := g.call(message(opLookup, dir, name), 200)
	if errno != 0 {
		g.t.Fatalf("LOOKUP %s: %v", name, errno)
	}
	return decode[fuse.EntryOut](g.t, data)
}

func TestConfig(t *testing.T) {
	g := newGuest(t, Options{Queues: 3})
	if got, want := g.Config(0, 40), append([]byte("rootfs"+strings.Repeat("\x00", 30)), 3, 0, 0, 0); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(g.Queues) != 4 {
		t.Errorf("%d queues", len(g.Queues))
	}
	for _, tag := range []string{"", strings.Repeat("x", 37), "a\x00b"} {
		if _, err := New(Options{Tag: tag, Root: openDir(t, t.TempDir())}); err == nil {
			t.Errorf("tag %q accepted", tag)
		}
	}
}

func TestSizes(t *testing.T) {
	// From include/uapi/linux/fuse.h, with the header for what has one.
	for name, got := range map[string][2]int{
		"EntryOut": {entry, 128}, "AttrOut": {attr, 104}, "CreateOut": {create, 144}, "OpenOut": {open, 16},
		"InitOut": {size(fuse.InitOut{}), 64}, "InitIn": {size(fuse.InitIn{}), 40 + 64}, "ReadIn": {size(fuse.ReadIn{}), 40 + 40},
		"WriteIn": {size(fuse.WriteIn{}), 40 + 40}, "SetAttrIn": {size(fuse.SetAttrIn{}), 40 + 88},
		"SetXAttrIn": {size(fuse.SetXAttrIn{}), 40 + 16}, "StatxIn": {size(fuse.StatxIn{}), 40 + 24}, "StatxOut": {size(fuse.StatxOut{}), 32 + 256},
		"CopyFileRangeIn": {size(fuse.CopyFileRangeIn{}), 40 + 56}, "LkIn": {size(fuse.LkIn{}), 40 + 48},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d bytes, want %d", name, got[0], got[1])
		}
	}
	var in fuse.InHeader
	if len(bytesOf(&in)) != inHeaderSize {
		t.Error("InHeader has padding")
	}
}

// TestReadWrite moves data of all sizes in chains of all shapes.
func TestReadWrite(t *testing.T) {
	g := newGuest(t, Options{})
	g.mount()
	errno, data := g.call(message(opCreate, 1, body(fuse.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}), "file"), 300)
	if errno != 0 {
		t.Fatal(errno)
	}
	c := decode[fuse.CreateOut](t, data)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 4095, 4096, 100_000, 1 << 20} {
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		m := message(opWrite, c.NodeId, body(fuse.WriteIn{Fh: c.Fh, Offset: 3, Size: uint32(n)}), want)
		parts := [][]byte{m[:inHeaderSize], m[inHeaderSize : inHeaderSize+40]}
		for rest := m[inHeaderSize+40:]; len(rest) > 0; {
			k := min(len(rest), 4096)
			parts = append(parts, rest[:k])
			rest = rest[k:]
		}
		q := g.Queues[first]
		q.Submit(parts, 16, 8)
		errno, data := reply(t, m, q.Wait().Data())
		if w := decode[fuse.WriteOut](t, data); errno != 0 || int(w.Size) != n {
			t.Fatalf("WRITE of %d bytes: %v, %d written", n, errno, w.Size)
		}
		if got, err := os.ReadFile(filepath.Join(g.dir, "file")); err != nil || !bytes.Equal(got[3:], want) {
			t.Fatalf("the host has %d other bytes, %v", len(got), err)
		}
		m = message(opRead, c.NodeId, body(fuse.ReadIn{Fh: c.Fh, Offset: 3, Size: uint32(n)}))
		rooms := []int{7, 9}
		for k := n; k > 0; k -= 4096 {
			rooms = append(rooms, min(k, 4096))
		}
		q.Submit([][]byte{m}, rooms...)
		if errno, data := reply(t, m, q.Wait().Data()); errno != 0 || !bytes.Equal(data, want) {
			t.Fatalf("READ of %d bytes: %v, %d bytes", n, errno, len(data))
		}
		// Past the end there is less.
		m = message(opRead, c.NodeId, body(fuse.ReadIn{Fh: c.Fh, Offset: uint64(n), Size: 4096}))
		if errno, data := g.call(m, 16+4096); errno != 0 || len(data) != 3 {
			t.Errorf("READ at the end: %v, %d bytes", errno, len(data))
		}
	}
}

// TestSession takes a share through what a client does with it.
func TestSession(t *testing.T) {
	g := newGuest(t, Options{})
	if err := os.WriteFile(filepath.Join(g.dir, "host"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if errno, _ := g.call(message(opLookup, 1, "host"), 200); errno != unix.ENOTCONN {
		t.Errorf("LOOKUP before INIT: %v", errno)
	}
	errno, data := g.call(initMessage(), 200)
	out := decode[fuse.InitOut](t, data)
	if errno != 0 || out.MaxWrite != 1<<20 || out.MaxPages != 256 || out.MaxReadAhead != 128<<10 {
		t.Errorf("INIT: %v, %+v", errno, out)
	}
	for name, flag := range map[string]uint64{"killpriv": fuse.CAP_HANDLE_KILLPRIV_V2, "submounts": fuse.CAP_SUBMOUNTS, "acl": fuse.CAP_POSIX_ACL, "readdirplus": fuse.CAP_READDIRPLUS, "auto inval": fuse.CAP_AUTO_INVAL_DATA, "parallel dirops": fuse.CAP_PARALLEL_DIROPS, "don't mask": fuse.CAP_DONT_MASK} {
		if out.Flags64()&flag == 0 {
			t.Errorf("%s was not negotiated", name)
		}
	}
	for name, flag := range map[string]uint64{"writeback": fuse.CAP_WRITEBACK_CACHE, "posix locks": fuse.CAP_POSIX_LOCKS, "flock": fuse.CAP_FLOCK_LOCKS, "passthrough": fuse.CAP_PASSTHROUGH, "idmap": fuse.CAP_ALLOW_IDMAP, "dax": fuse.CAP_MAP_ALIGNMENT} {
		if out.Flags64()&flag != 0 {
			t.Errorf("%s was negotiated", name)
		}
	}
	if errno, _ := g.call(initMessage(), 200); errno != unix.EINVAL {
		t.Errorf("second INIT: %v", errno)
	}
	host := g.lookup(1, "host")
	if errno, _ := g.call(message(opDestroy, 0), 16); errno != 0 {
		t.Errorf("DESTROY: %v", errno)
	}
	if errno, _ := g.call(message(opGetattr, host.NodeId, 16), 200); errno != unix.ENOTCONN {
		t.Errorf("GETATTR after DESTROY: %v", errno)
	}
	g.mount()
	if errno, _ := g.call(message(opGetattr, host.NodeId, 16), 200); errno != unix.ESTALE {
		t.Errorf("GETATTR with a node of the last session: %v", errno)
	}
	host = g.lookup(1, "host")
	if out := g.Queues[hiprio].Do(message(opForget, host.NodeId, uint64(1)), 0); len(out) != 0 {
		t.Errorf("FORGET was answered with %x", out)
	}
	if errno, _ := g.call(message(opGetattr, host.NodeId, 16), 200); errno != unix.ESTALE {
		t.Errorf("GETATTR after FORGET: %v", errno)
	}
	a, b := g.lookup(1, "host"), g.lookup(1, "host")
	if a.NodeId != b.NodeId {
		t.Errorf("one file has nodes %d and %d", a.NodeId, b.NodeId)
	}
	one := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, a.NodeId), 1)
	g.Queues[hiprio].Do(message(opBatchForget, 0, uint32(2), uint32(0), one, one), 0)
	if errno, _ := g.call(message(opGetattr, a.NodeId, 16), 200); errno != unix.ESTALE {
		t.Errorf("GETATTR after BATCH_FORGET: %v", errno)
	}
	g.Init() // a reset, and a new session
	if errno, _ := g.call(message(opLookup, 1, "host"), 200); errno != unix.ENOTCONN {
		t.Errorf("LOOKUP after a reset: %v", errno)
	}
	g.mount()
	g.lookup(1, "host")
}

func TestReadDirPlus(t *testing.T) {
	g := newGuest(t, Options{})
	g.mount()
	want := map[string]bool{".": true, "..": true}
	for i := range 200 {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("n", i))
		want[name] = true
		if err := os.WriteFile(filepath.Join(g.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, opcode := range []uint32{opReaddir, opReaddirplus} {
		errno, data := g.call(message(opOpendir, 1, 8), 200)
		if errno != 0 {
			t.Fatal(errno)
		}
		fh := decode[fuse.OpenOut](t, data).Fh
		seen := map[string]bool{}
		for off := uint64(0); ; {
			errno, data := g.call(message(opcode, 1, body(fuse.ReadIn{Fh: fh, Offset: off, Size: 4096})), 16+4096)
			if errno != 0 {
				t.Fatal(errno)
			}
			if len(data) == 0 {
				break
			}
			entries, err := fuse.ParseDirEntries(data)
			if opcode == opReaddirplus {
				var outs []fuse.EntryOut
				entries, outs, err = fuse.ParseDirLookupEntries(data)
				for i, e := range entries {
					if dot := strings.Trim(e.Name, ".") == ""; dot != (outs[i].NodeId == 0) || !dot && outs[i].Ino != e.Ino {
						t.Errorf("%s has node %d, inode %d and %d", e.Name, outs[i].NodeId, outs[i].Ino, e.Ino)
					}
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if seen[e.Name] || !want[e.Name] {
					t.Errorf("opcode %d: %q is listed wrongly or twice", opcode, e.Name)
				}
				seen[e.Name] = true
				off = e.Off
			}
		}
		if len(seen) != len(want) {
			t.Errorf("opcode %d lists %d entries of %d", opcode, len(seen), len(want))
		}
	}
}

// TestMalformed sends what no driver should. Each gets an error or nothing,
// and the device goes on.
func TestMalformed(t *testing.T) {
	var log bytes.Buffer
	g := newGuest(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	g.mount()
	if err := os.WriteFile(filepath.Join(g.dir, "file"), bytes.Repeat([]byte("x"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(1, "file").NodeId
	_, data := g.call(message(opOpen, node, body(fuse.OpenIn{Flags: unix.O_RDWR})), 200)
	fh := decode[fuse.OpenOut](t, data).Fh
	lie := func(m []byte, n uint32) []byte {
		m = bytes.Clone(m)
		binary.LittleEndian.PutUint32(m, n)
		return m
	}
	lookup := message(opLookup, 1, "file")
	ext := message(opLookup, 1, "file", 64)
	binary.LittleEndian.PutUint16(ext[36:], 8)
	for _, test := range []struct {
		name string
		m    []byte
		room int
		want unix.Errno // -1: no reply
	}{
		{"length too long", lie(lookup, 1<<31), 200, unix.EINVAL},
		{"length too short", lie(lookup, 41), 200, unix.EINVAL},
		{"length zero", lie(lookup, 0), 200, unix.EINVAL},
		{"no room for a header", lookup, 15, ^unix.Errno(0)},
		{"no room at all", lookup, 0, ^unix.Errno(0)},
		{"no room for the structure", lookup, 16, unix.EINVAL},
		{"no header", lookup[:39], 200, ^unix.Errno(0)},
		{"one byte", lookup[:1], 200, ^unix.Errno(0)},
		{"nothing", nil, 200, ^unix.Errno(0)},
		{"header only", message(opLookup, 1), 200, unix.EINVAL},
		{"extension", ext, 200, unix.EINVAL},
		{"opcode 0", message(0, 1), 200, unix.ENOSYS},
		{"opcode 2^32-1", message(^uint32(0), 1), 200, unix.ENOSYS},
		{"CUSE_INIT", message(4096, 1), 200, unix.ENOSYS},
		{"NOTIFY_REPLY", message(41, 1, 100), 200, unix.ENOSYS},
		{"SETLKW", message(33, node, body(fuse.LkIn{Fh: fh})), 200, unix.ENOSYS},
		{"SETUPMAPPING", message(48, node, 100), 200, unix.ENOSYS},
		{"IOCTL", message(opIoctl, node, body(fuse.IoctlIn{Fh: fh, OutSize: ^uint32(0)})), 200, unix.ENOTTY},
		{"node of go-fuse", message(opGetattr, ^uint64(0), 16), 200, unix.ESTALE},
		{"LOOKUP of go-fuse's name", message(opLookup, 1, ".go-fuse-epoll-hack"), 200, unix.ENOENT},
		{"LOOKUP ..", message(opLookup, 1, ".."), 200, unix.EINVAL},
		{"name without end", message(opLookup, 1, []byte("file")), 200, 0},
		{"RENAME with one name", message(opRename, 1, uint64(1), "file"), 200, unix.EIO},
		{"huge name", message(opLookup, 1, strings.Repeat("x", 70_000)), 200, unix.ENAMETOOLONG},
		{"request too long", message(opLookup, 1, strings.Repeat("x", 80_000)), 200, unix.EINVAL},
		{"READ of more than fits", message(opRead, node, body(fuse.ReadIn{Fh: fh, Size: 1 << 31})), 116, 0},
		{"READ at 2^63", message(opRead, node, body(fuse.ReadIn{Fh: fh, Offset: 1 << 63, Size: 10})), 116, unix.EINVAL},
		{"READ of nothing", message(opRead, node, body(fuse.ReadIn{Fh: fh})), 16, 0},
		{"READ by a wrong handle", message(opRead, node, body(fuse.ReadIn{Fh: fh + 1, Size: 10})), 116, unix.EBADF},
		{"WRITE of less than it says", message(opWrite, node, body(fuse.WriteIn{Fh: fh, Size: 100}), 10), 200, unix.EINVAL},
		{"WRITE of more than it says", message(opWrite, node, body(fuse.WriteIn{Fh: fh, Size: 10}), 100), 200, unix.EINVAL},
		{"WRITE of too much", message(opWrite, node, body(fuse.WriteIn{Fh: fh, Size: 1<<20 + 1}), 1<<20+1), 200, unix.EINVAL},
		{"WRITE at 2^63", message(opWrite, node, body(fuse.WriteIn{Fh: fh, Offset: 1 << 63, Size: 1}), 1), 200, unix.EFBIG},
		{"READDIR of a file", message(opReaddir, node, body(fuse.ReadIn{Fh: fh, Size: 4096})), 16 + 4096, unix.EBADF},
		{"READDIR of more than fits", message(opReaddir, 1, body(fuse.ReadIn{Size: 1 << 31})), 100, unix.EINVAL},
		{"GETXATTR of more than fits", message(opGetxattr, node, body(fuse.GetXAttrIn{Size: 1 << 31}), "user.a"), 100, unix.EINVAL},
		{"GETXATTR size without room", message(opGetxattr, node, body(fuse.GetXAttrIn{}), "user.a"), 16, unix.EINVAL},
		{"SETXATTR of more than it has", message(opSetxattr, node, body(fuse.SetXAttrIn{Size: 1 << 30}), "user.a", "x"), 100, unix.EINVAL},
		{"SETXATTR without a name", message(opSetxattr, node, body(fuse.SetXAttrIn{}), []byte("xxx")), 100, unix.EINVAL},
		{"READLINK of a file", message(opReadlink, node), 4096, unix.EINVAL},
		{"BATCH_FORGET of more than it has", message(opBatchForget, 0, ^uint32(0), uint32(0), 100), 0, ^unix.Errno(0)},
		{"BATCH_FORGET short", message(opBatchForget, 0, uint32(0)), 0, ^unix.Errno(0)},
		{"FORGET short", message(opForget, node, uint32(1)), 200, ^unix.Errno(0)},
		{"FORGET of too many", message(opForget, 1, ^uint64(0)), 0, ^unix.Errno(0)},
		{"INTERRUPT", message(opInterrupt, 1, uint64(1)), 200, ^unix.Errno(0)},
		{"COPY_FILE_RANGE at 2^63", message(opCopyFileRange, node, body(fuse.CopyFileRangeIn{FhIn: fh, NodeIdOut: node, FhOut: fh, OffOut: 1 << 63, Len: ^uint64(0)})), 200, unix.EFBIG},
		{"FALLOCATE of 2^63", message(opFallocate, node, body(fuse.FallocateIn{Fh: fh, Length: 1 << 63})), 200, unix.EFBIG},
		{"STATX", message(opStatx, node, body(fuse.StatxIn{SxFlags: ^uint32(0), SxMask: ^uint32(0)})), 400, unix.EINVAL},
		{"SYNCFS of nothing", message(opSyncfs, 77, uint64(0)), 16, unix.ESTALE},
		{"TMPFILE for reading", message(opTmpfile, 1, body(fuse.CreateIn{}), "/"), 200, unix.EINVAL},
	} {
		for _, q := range []int{first, hiprio} {
			out := g.Queues[q].Do(test.m, test.room)
			if test.want == ^unix.Errno(0) {
				if len(out) != 0 {
					t.Errorf("%s: answered with %x", test.name, out)
				}
				continue
			}
			if errno, _ := reply(t, test.m, out); errno != test.want {
				t.Errorf("%s: got %v, want %v", test.name, errno, test.want)
			}
		}
	}
	g.lookup(1, "file")
	const maxLines = 8 // one for each kind of complaint
	if n := strings.Count(log.String(), "\n"); n == 0 || n > maxLines {
		t.Errorf("%d lines were logged", n)
	}
}

// TestReservedName has a file with the name which go-fuse keeps for itself.
func TestReservedName(t *testing.T) {
	g := newGuest(t, Options{})
	g.mount()
	const name = ".go-fuse-epoll-hack"
	if errno, _ := g.call(message(opMkdir, 1, body(fuse.MkdirIn{Mode: 0o755}), name), 200); errno != 0 {
		t.Fatal(errno)
	}
	if e := g.lookup(1, name); e.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("mode %o", e.Mode)
	}
	if errno, _ := g.call(message(opRmdir, 1, name), 200); errno != 0 {
		t.Error(errno)
	}
}

// TestBrokenQueue has a driver break the rules of the queue itself.
func TestBrokenQueue(t *testing.T) {
	g := newGuest(t, Options{})
	g.mount()
	g.Queues[first].SetAvailableIdx(30_000)
	g.Queues[first].Notify()
	g.UntilNeedsReset()
	g.Init()
	g.mount()
}

// TestResetUnderLoad resets the device while requests are under way, and
// counts what is left.
func TestResetUnderLoad(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	g := newGuest(t, Options{})
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(g.dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := count()
	for range 20 {
		g.mount()
		for i := range 50 {
			g.Queues[first].Submit([][]byte{message(opLookup, 1, fmt.Sprint(i))}, 200)
			g.Queues[first].Submit([][]byte{message(opOpendir, 1, 8)}, 200)
		}
		g.Init()
	}
	if n := count(); n != before {
		t.Errorf("%d descriptors are open, %d were", n, before)
	}
}

// TestParallel has many requests under way on several queues.
func TestParallel(t *testing.T) {
	g := newGuest(t, Options{Queues: 2, Workers: 4})
	g.mount()
	for round := range 20 {
		for i := range 40 {
			q := g.Queues[first+i%2]
			q.Submit([][]byte{message(opMkdir, 1, body(fuse.MkdirIn{Mode: 0o755}), fmt.Sprintf("%d-%d", round, i))}, 16, 128)
		}
		for i := range 40 {
			r := g.Queues[first+i%2].Wait()
			if data := r.Data(); len(data) != outHeaderSize+entry || !bytes.Equal(data[4:8], make([]byte, 4)) {
				t.Fatalf("reply %x", data)
			}
		}
	}
	if list, err := os.ReadDir(g.dir); err != nil || len(list) != 800 {
		t.Errorf("%d directories were made, %v", len(list), err)
	}
}
