package mmio

// WindowSize is the size of a device's register window in bytes.
const WindowSize = 0x1000

// Register offsets (virtio 1.2, section 4.2.2). All are 32 bits wide but for
// the configuration space, which starts at Config.
const (
	MagicValue        = 0x000
	Version           = 0x004
	DeviceID          = 0x008
	VendorID          = 0x00c
	DeviceFeatures    = 0x010
	DeviceFeaturesSel = 0x014
	DriverFeatures    = 0x020
	DriverFeaturesSel = 0x024
	QueueSel          = 0x030
	QueueNumMax       = 0x034
	QueueNum          = 0x038
	QueueReady        = 0x044
	QueueNotify       = 0x050
	InterruptStatus   = 0x060
	InterruptACK      = 0x064
	Status            = 0x070
	QueueDescLow      = 0x080
	QueueDescHigh     = 0x084
	QueueDriverLow    = 0x090
	QueueDriverHigh   = 0x094
	QueueDeviceLow    = 0x0a0
	QueueDeviceHigh   = 0x0a4
	SHMSel            = 0x0ac
	SHMLenLow         = 0x0b0
	SHMLenHigh        = 0x0b4
	SHMBaseLow        = 0x0b8
	SHMBaseHigh       = 0x0bc
	ConfigGeneration  = 0x0fc
	Config            = 0x100
)

// Values of MagicValue, Version and VendorID.
const (
	magic   = 0x74726976 // "virt"
	version = 2
	vendor  = 0x766e7572 // "runv"
)

// Bits of InterruptStatus and InterruptACK.
const (
	InterruptUsedBuffer   = 1 << 0
	InterruptConfigChange = 1 << 1
)

// Feature bits that the transport handles (section 6).
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32
)
