package virtio

// Stateful is a device that knows more than its queues say. What it saves is
// meant for the same version of this program.
type Stateful interface {
	// SaveState describes what the driver has told the device. It fails if that
	// could not go on elsewhere.
	SaveState() ([]byte, error)

	// RestoreState has the next Activate start from what SaveState said. The
	// bytes are checked.
	RestoreState([]byte) error
}
