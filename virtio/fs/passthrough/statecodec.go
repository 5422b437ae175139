package passthrough

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// All numbers of a stored session are unsigned varints; a string begins with its
// length.

const (
	flagMount = 1 << iota
	flagDir
)

func (s *session) encode() []byte {
	var b []byte
	put := func(values ...uint64) {
		for _, v := range values {
			b = binary.AppendUvarint(b, v)
		}
	}
	put(s.nextInode, s.nextHandle, s.rootLookups, uint64(len(s.inodes)))
	for _, n := range s.inodes {
		flags := uint64(0)
		if n.mount {
			flags |= flagMount
		}
		put(n.id, n.lookups, uint64(n.typ), flags, n.size, uint64(len(n.path)))
		b = append(b, n.path...)
	}
	put(uint64(len(s.handles)))
	for _, h := range s.handles {
		flags := uint64(0)
		if h.dir {
			flags |= flagDir
		}
		put(h.id, h.node, flags, uint64(h.flags))
	}
	return b
}

var errSession = errors.New("damaged state of a share")

// decodeSession reads what encode wrote, and checks that it can be true.
func decodeSession(b []byte, maxInodes, maxHandles int) (*session, error) {
	bad := false
	get := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad = true
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	s := &session{nextInode: get(), nextHandle: get(), rootLookups: get()}
	known := map[uint64]uint32{1: unix.S_IFDIR}
	for count := get(); count > 0 && !bad; count-- {
		n := savedInode{id: get(), lookups: get(), typ: uint32(min(get(), 1<<32-1))}
		n.mount = get()&flagMount != 0
		n.size = get()
		size := get()
		if size > uint64(len(b)) {
			bad = true
			break
		}
		n.path, b = string(b[:size]), b[size:]
		if _, twice := known[n.id]; twice || n.id == 0 || isRoot(n.id) || n.id >= s.nextInode || n.typ&^unix.S_IFMT != 0 {
			return nil, fmt.Errorf("%w: inode %d", errSession, n.id)
		}
		if len(s.inodes) >= maxInodes {
			return nil, fmt.Errorf("more than %d inodes", maxInodes)
		}
		known[n.id] = n.typ
		s.inodes = append(s.inodes, n)
	}
	seen := make(map[uint64]bool)
	for count := get(); count > 0 && !bad; count-- {
		h := savedHandle{id: get(), node: get()}
		h.dir = get()&flagDir != 0
		flags := get()
		h.flags = int(flags & savedFlags)
		if _, ok := known[h.node]; !ok || seen[h.id] || h.id == 0 || h.id >= s.nextHandle || flags&^uint64(savedFlags) != 0 {
			return nil, fmt.Errorf("%w: handle %d", errSession, h.id)
		}
		if len(s.handles) >= maxHandles {
			return nil, fmt.Errorf("more than %d open files", maxHandles)
		}
		seen[h.id] = true
		s.handles = append(s.handles, h)
	}
	if bad || len(b) > 0 {
		return nil, fmt.Errorf("%w: cut off, or too long", errSession)
	}
	return s, nil
}
