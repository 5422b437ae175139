package vsock

import "fmt"

// HostCID is the context identifier of the host (section 5.10.4).
const HostCID = 2

// Addr is the address of one end of a connection.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network returns "vsock".
func (Addr) Network() string { return "vsock" }

// String returns the address as CID:PORT, in decimal.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }
