package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderSize is the size of struct virtio_vsock_hdr (section 5.10.6) in bytes.
const HeaderSize = 44

// Op is the operation of a packet.
type Op uint16

// Operations (section 5.10.6).
const (
	OpInvalid       Op = 0
	OpRequest       Op = 1
	OpResponse      Op = 2
	OpRst           Op = 3
	OpShutdown      Op = 4
	OpRW            Op = 5
	OpCreditUpdate  Op = 6
	OpCreditRequest Op = 7
)

var opNames = [...]string{"INVALID", "REQUEST", "RESPONSE", "RST", "SHUTDOWN", "RW", "CREDIT_UPDATE", "CREDIT_REQUEST"}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("Op(%d)", uint16(o))
}

// Type is the socket type of a packet.
type Type uint16

// Socket types (section 5.10.6.1).
const (
	TypeStream    Type = 1
	TypeSeqpacket Type = 2
)

// Flags of OpShutdown and, for TypeSeqpacket, of OpRW.
const (
	ShutdownReceive = 1 // the sender will receive no more
	ShutdownSend    = 2 // the sender will send no more
	shutdownBoth    = ShutdownReceive | ShutdownSend

	SeqEOM = 1 // the packet ends a message
	SeqEOR = 2 // the message ends a record
)

// Header is struct virtio_vsock_hdr (section 5.10.6), little-endian on the
// wire. Any value of every field can come from a guest.
type Header struct {
	SrcCID, DstCID   uint64
	SrcPort, DstPort uint32
	Len              uint32 // bytes of payload after the header
	Type             Type
	Op               Op
	Flags            uint32
	BufAlloc         uint32 // receive buffer of the sender, in bytes
	FwdCnt           uint32 // bytes the sender has taken out of it, modulo 2^32
}

var errShortHeader = errors.New("packet shorter than its header")

// ParseHeader decodes the header at the start of p, which must be a copy: the
// guest can change its memory at any moment.
func ParseHeader(p []byte) (Header, error) {
	if len(p) < HeaderSize {
		return Header{}, errShortHeader
	}
	le := binary.LittleEndian
	return Header{
		SrcCID:   le.Uint64(p[0:]),
		DstCID:   le.Uint64(p[8:]),
		SrcPort:  le.Uint32(p[16:]),
		DstPort:  le.Uint32(p[20:]),
		Len:      le.Uint32(p[24:]),
		Type:     Type(le.Uint16(p[28:])),
		Op:       Op(le.Uint16(p[30:])),
		Flags:    le.Uint32(p[32:]),
		BufAlloc: le.Uint32(p[36:]),
		FwdCnt:   le.Uint32(p[40:]),
	}, nil
}

// Put encodes h at the start of p, which has at least HeaderSize bytes.
func (h *Header) Put(p []byte) {
	le := binary.LittleEndian
	_ = p[HeaderSize-1]
	le.PutUint64(p[0:], h.SrcCID)
	le.PutUint64(p[8:], h.DstCID)
	le.PutUint32(p[16:], h.SrcPort)
	le.PutUint32(p[20:], h.DstPort)
	le.PutUint32(p[24:], h.Len)
	le.PutUint16(p[28:], uint16(h.Type))
	le.PutUint16(p[30:], uint16(h.Op))
	le.PutUint32(p[32:], h.Flags)
	le.PutUint32(p[36:], h.BufAlloc)
	le.PutUint32(p[40:], h.FwdCnt)
}

// verdict is what becomes of a packet before its connection is looked at.
type verdict int

const (
	verdictAccept verdict = iota
	verdictReset          // answer with RST
	verdictDrop           // say nothing
)

// check applies the rules that need no connection. room is the number of bytes
// the driver's buffers hold after the header.
func (h *Header) check(guestCID uint64, seqpacket bool, room int) verdict {
	switch {
	case h.SrcCID != guestCID:
		return verdictDrop // spoofed: an answer would go to who did not ask
	case h.Op == OpRst && h.DstCID != HostCID:
		return verdictDrop
	case h.DstCID != HostCID:
		return verdictReset // no route to that CID
	case h.Type != TypeStream && !(seqpacket && h.Type == TypeSeqpacket):
		if h.Op == OpRst {
			return verdictDrop
		}
		return verdictReset
	case uint64(h.Len) > uint64(room):
		if h.Op == OpRst {
			return verdictDrop
		}
		return verdictReset // data is lost
	case h.Op == OpInvalid || h.Op > OpCreditRequest:
		return verdictReset
	case h.Op != OpRW && h.Len != 0:
		if h.Op == OpRst {
			return verdictDrop
		}
		return verdictReset
	}
	return verdictAccept
}

// reset returns the RST that answers h, from where h was sent to.
func (h *Header) reset() Header {
	return Header{
		SrcCID: h.DstCID, DstCID: h.SrcCID,
		SrcPort: h.DstPort, DstPort: h.SrcPort,
		Type: h.Type, Op: OpRst,
	}
}
