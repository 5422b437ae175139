package mmio

// Bits of the device status (virtio 1.2, section 2.1).
const (
	StatusAcknowledge      = 1
	StatusDriver           = 2
	StatusDriverOK         = 4
	StatusFeaturesOK       = 8
	StatusDeviceNeedsReset = 64
	StatusFailed           = 128
)

// transitions are the legal steps of the driver's initialization (section
// 3.1.1). Besides them it may write 0, which resets, add FAILED at any time,
// and write the value that is there.
var transitions = []struct{ from, to uint32 }{
	{0, StatusAcknowledge},
	{StatusAcknowledge, statusNegotiating},
	{statusNegotiating, statusNegotiated},
	{statusNegotiated, statusRunning},
}

const (
	statusNegotiating = StatusAcknowledge | StatusDriver
	statusNegotiated  = StatusAcknowledge | StatusDriver | StatusFeaturesOK
	statusRunning     = statusNegotiated | StatusDriverOK
)

func legalTransition(from, to uint32) bool {
	for _, t := range transitions {
		if t.from == from && t.to == to {
			return true
		}
	}
	return false
}
