package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes of the FUSE protocol (include/uapi/linux/fuse.h).
const (
	opLookup        = 1
	opForget        = 2
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetxattr      = 21
	opGetxattr      = 22
	opListxattr     = 23
	opRemovexattr   = 24
	opFlush         = 25
	opInit          = 26
	opOpendir       = 27
	opReaddir       = 28
	opReleasedir    = 29
	opFsyncdir      = 30
	opCreate        = 35
	opInterrupt     = 36
	opDestroy       = 38
	opIoctl         = 39
	opBatchForget   = 42
	opFallocate     = 43
	opReaddirplus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
	opSyncfs        = 50
	opTmpfile       = 51
	opStatx         = 52

	opCount = opStatx + 1
)

const (
	inHeaderSize  = 40
	outHeaderSize = 16
	forgetOneSize = 16

	maxWrite = 1 << 20 // bytes of a READ or WRITE

	// maxReply bounds what a request which is not a READ asks for; it may
	// always be given less, or has no more. maxRequest bounds one that is not
	// a WRITE: an attribute of 64 KiB and its name, or two names.
	maxReply   = 64 << 10
	maxRequest = 72 << 10

	maxBatchForget = 1 << 16 // entries

	linkMax = 4096
)

// operation says what a request of one opcode looks like.
type operation struct {
	name string
	in   int // bytes at least, with the header
	out  int // bytes of the reply's structure, without the header
	// sizeAt is where the request has the size of the data it wants, as 32
	// bits, or zero. With a size, GETXATTR and LISTXATTR have no structure.
	sizeAt   int
	sizeOnly bool
	data     int // bytes of data in the reply at most, if there is no sizeAt
}

// size is the size of a structure of the protocol.
func size(v any) int { return binary.Size(v) }

var (
	entry  = size(fuse.EntryOut{})
	attr   = size(fuse.AttrOut{})
	create = size(fuse.CreateOut{})
	open   = size(fuse.OpenOut{})
)

// operations are the requests that are served; the others get ENOSYS, upon
// which the client does without. Names are the rest of a request.
var operations = [opCount]operation{
	opLookup:        {name: "LOOKUP", in: inHeaderSize + 1, out: entry},
	opForget:        {name: "FORGET", in: size(fuse.ForgetIn{})},
	opGetattr:       {name: "GETATTR", in: size(fuse.GetAttrIn{}), out: attr},
	opSetattr:       {name: "SETATTR", in: size(fuse.SetAttrIn{}), out: attr},
	opReadlink:      {name: "READLINK", in: inHeaderSize, data: linkMax},
	opSymlink:       {name: "SYMLINK", in: inHeaderSize + 2, out: entry},
	opMknod:         {name: "MKNOD", in: size(fuse.MknodIn{}) + 1, out: entry},
	opMkdir:         {name: "MKDIR", in: size(fuse.MkdirIn{}) + 1, out: entry},
	opUnlink:        {name: "UNLINK", in: inHeaderSize + 1},
	opRmdir:         {name: "RMDIR", in: inHeaderSize + 1},
	opRename:        {name: "RENAME", in: inHeaderSize + 8 + 2},
	opLink:          {name: "LINK", in: size(fuse.LinkIn{}) + 1, out: entry},
	opOpen:          {name: "OPEN", in: size(fuse.OpenIn{}), out: open},
	opRead:          {name: "READ", in: size(fuse.ReadIn{})},
	opWrite:         {name: "WRITE", in: size(fuse.WriteIn{}), out: size(fuse.WriteOut{})},
	opStatfs:        {name: "STATFS", in: inHeaderSize, out: size(fuse.StatfsOut{})},
	opRelease:       {name: "RELEASE", in: size(fuse.ReleaseIn{})},
	opFsync:         {name: "FSYNC", in: size(fuse.FsyncIn{})},
	opSetxattr:      {name: "SETXATTR", in: size(fuse.SetXAttrIn{}) + 1},
	opGetxattr:      {name: "GETXATTR", in: size(fuse.GetXAttrIn{}) + 1, out: size(fuse.GetXAttrOut{}), sizeAt: inHeaderSize, sizeOnly: true},
	opListxattr:     {name: "LISTXATTR", in: size(fuse.GetXAttrIn{}), out: size(fuse.GetXAttrOut{}), sizeAt: inHeaderSize, sizeOnly: true},
	opRemovexattr:   {name: "REMOVEXATTR", in: inHeaderSize + 1},
	opFlush:         {name: "FLUSH", in: size(fuse.FlushIn{})},
	opInit:          {name: "INIT", in: size(fuse.InitIn{}), out: size(fuse.InitOut{})},
	opOpendir:       {name: "OPENDIR", in: size(fuse.OpenIn{}), out: open},
	opReaddir:       {name: "READDIR", in: size(fuse.ReadIn{}), sizeAt: inHeaderSize + 16},
	opReleasedir:    {name: "RELEASEDIR", in: size(fuse.ReleaseIn{})},
	opFsyncdir:      {name: "FSYNCDIR", in: size(fuse.FsyncIn{})},
	opInterrupt:     {name: "INTERRUPT", in: size(fuse.InterruptIn{})},
	opDestroy:       {name: "DESTROY", in: inHeaderSize},
	opIoctl:         {name: "IOCTL", in: size(fuse.IoctlIn{})},
	opBatchForget:   {name: "BATCH_FORGET", in: inHeaderSize + 8},
	opFallocate:     {name: "FALLOCATE", in: size(fuse.FallocateIn{})},
	opReaddirplus:   {name: "READDIRPLUS", in: size(fuse.ReadIn{}), sizeAt: inHeaderSize + 16},
	opRename2:       {name: "RENAME2", in: size(fuse.RenameIn{}) + 2},
	opLseek:         {name: "LSEEK", in: size(fuse.LseekIn{}), out: size(fuse.LseekOut{})},
	opCopyFileRange: {name: "COPY_FILE_RANGE", in: size(fuse.CopyFileRangeIn{}), out: size(fuse.WriteOut{})},
	opSyncfs:        {name: "SYNCFS", in: inHeaderSize + 8},
	opTmpfile:       {name: "TMPFILE", in: size(fuse.CreateIn{}), out: create},
	opStatx:         {name: "STATX", in: size(fuse.StatxIn{}), out: size(fuse.StatxOut{})},
	opCreate:        {name: "CREATE", in: size(fuse.CreateIn{}) + 1, out: create},
}

func operationOf(opcode uint32) (operation, bool) {
	if opcode >= opCount || operations[opcode].name == "" {
		return operation{}, false
	}
	return operations[opcode], true
}

// noReply reports whether a request is never answered.
func noReply(opcode uint32) bool {
	return opcode == opForget || opcode == opBatchForget || opcode == opInterrupt
}

// putHeader writes struct fuse_out_header.
func putHeader(b *[outHeaderSize]byte, length int, errno unix.Errno, unique uint64) {
	binary.LittleEndian.PutUint32(b[0:], uint32(length))
	binary.LittleEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(b[8:], unique)
}

// slices appends the bytes [off, off+n) of buffers to dst.
func slices(dst, buffers [][]byte, off, n int) [][]byte {
	for _, b := range buffers {
		if n == 0 {
			break
		}
		if off >= len(b) {
			off -= len(b)
			continue
		}
		b = b[off:]
		off = 0
		b = b[:min(len(b), n)]
		n -= len(b)
		dst = append(dst, b)
	}
	return dst
}
