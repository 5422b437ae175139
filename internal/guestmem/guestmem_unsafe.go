package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// The guest is x86-64 and so is the host: words are little-endian, and the
// operations of sync/atomic on memory both sides have mapped order accesses
// between host and guest as they do between threads. Stores and
// compare-and-swap are locked instructions, hence full fences.
//
// All callers pass a slice long enough for the word, at a multiple of the
// word's size: New admits only regions whose host address is aligned.

func load32(b []byte) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4]))))
}

func store32(b []byte, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4]))), v)
}

func cas32(b []byte, old, v uint32) bool {
	return atomic.CompareAndSwapUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4]))), old, v)
}

func load64(b []byte) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(b[:8]))))
}

func store64(b []byte, v uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(b[:8]))), v)
}

// wordAligned reports whether the host address of b is a multiple of 8.
func wordAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 == 0
}
