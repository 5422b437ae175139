package fs

import "unsafe"

// bytesOf is the memory of *v, a structure of the protocol, to be filled from
// a request.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
