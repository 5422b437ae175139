package assets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"
)

// A section is its content's size, a little-endian uint64, and the content as
// one LZ4 block.
const packHeader = 8

// maxUnpacked bounds a section's content, in bytes.
const maxUnpacked = 1 << 30

var errDamaged = errors.New("damaged")

// Pack makes a section of its content.
func Pack(content []byte) ([]byte, error) {
	out := make([]byte, packHeader+lz4.CompressBlockBound(len(content)))
	binary.LittleEndian.PutUint64(out, uint64(len(content)))
	c := lz4.CompressorHC{Level: lz4.Level9}
	n, err := c.CompressBlock(content, out[packHeader:])
	if err != nil {
		return nil, err
	}
	return out[:packHeader+n], nil
}

// unpack has the content of the section of a file at an offset, in memory of its
// own beside the heap, which would keep it.
func unpack(f *os.File, offset, size int64) (content []byte, err error) {
	// Only whole pages can be mapped.
	before := offset % int64(os.Getpagesize())
	section, err := unix.Mmap(int(f.Fd()), offset-before, int(before+size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("munmap", unix.Munmap(section))) }()
	packed := section[before:]
	if len(packed) < packHeader {
		return nil, errDamaged
	}
	unpacked := binary.LittleEndian.Uint64(packed)
	if unpacked == 0 || unpacked > maxUnpacked {
		return nil, errDamaged
	}
	content, err = unix.Mmap(-1, 0, int(unpacked), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	n, err := lz4.UncompressBlock(packed[packHeader:], content)
	if err == nil && n != len(content) {
		err = errDamaged
	}
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(content))
	}
	return content, nil
}

// part is the kernel or the initrd: a section, or a file in its place.
type part struct {
	file         *os.File
	offset, size int64
	packed       bool
	content      []byte // of a section, once it was asked for
}

// reader has the part's content.
func (p *part) reader() (*io.SectionReader, error) {
	if !p.packed {
		return io.NewSectionReader(p.file, p.offset, p.size), nil
	}
	if p.content == nil {
		var err error
		if p.content, err = unpack(p.file, p.offset, p.size); err != nil {
			return nil, fmt.Errorf("unpack the guest: %w", err)
		}
	}
	return io.NewSectionReader(bytes.NewReader(p.content), 0, int64(len(p.content))), nil
}

func (p *part) close() error {
	if p.content == nil {
		return nil
	}
	err := unix.Munmap(p.content)
	p.content = nil
	return os.NewSyscallError("munmap", err)
}
