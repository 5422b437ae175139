package kvm

// Request numbers. The direction and the size of the argument are part of the
// number, which is why they are written out.
const (
	reqGetAPIVersion       = 0x0000ae00
	reqCreateVM            = 0x0000ae01
	reqGetMSRIndexList     = 0xc004ae02
	reqCheckExtension      = 0x0000ae03
	reqGetVCPUMmapSize     = 0x0000ae04
	reqGetSupportedCPUID   = 0xc008ae05
	reqCreateVCPU          = 0x0000ae41
	reqSetUserMemoryRegion = 0x4020ae46
	reqSetTSSAddr          = 0x0000ae47
	reqSetIdentityMapAddr  = 0x4008ae48
	reqSetGSIRouting       = 0x4008ae6a
	reqIRQFD               = 0x4020ae76
	reqIOEventFD           = 0x4040ae79
	reqSetClock            = 0x4030ae7b
	reqGetClock            = 0x8030ae7c
	reqRun                 = 0x0000ae80
	reqGetRegs             = 0x8090ae81
	reqSetRegs             = 0x4090ae82
	reqGetSregs            = 0x8138ae83
	reqSetSregs            = 0x4138ae84
	reqGetMSRs             = 0xc008ae88
	reqSetMSRs             = 0x4008ae89
	reqSetCPUID2           = 0x4008ae90
	reqGetLAPIC            = 0x8400ae8e
	reqSetLAPIC            = 0x4400ae8f
	reqGetMPState          = 0x8004ae98
	reqSetMPState          = 0x4004ae99
	reqGetVCPUEvents       = 0x8040ae9f
	reqSetVCPUEvents       = 0x4040aea0
	reqGetDebugRegs        = 0x8080aea1
	reqSetDebugRegs        = 0x4080aea2
	reqSetTSCKHz           = 0x0000aea2
	reqEnableCap           = 0x4068aea3
	reqGetTSCKHz           = 0x0000aea3
	reqGetXSave            = 0x9000aea4
	reqSetXSave            = 0x5000aea5
	reqSignalMSI           = 0x4020aea5
	reqGetXCRs             = 0x8188aea6
	reqSetXCRs             = 0x4188aea7
	reqKVMClockCtrl        = 0x0000aead
	reqGetXSave2           = 0x9000aecf
	reqPreFaultMemory      = 0xc040aed5
)

// APIVersion is the only value KVM_GET_API_VERSION has had since Linux 2.6.22.
const APIVersion = 12

// Cap is a KVM capability.
type Cap uint32

// Capabilities (KVM_CAP_*).
const (
	CapIRQChip            Cap = 0
	CapUserMemory         Cap = 3
	CapSetTSSAddr         Cap = 4
	CapExtCPUID           Cap = 7
	CapNrVCPUs            Cap = 9
	CapMPState            Cap = 14
	CapIRQRouting         Cap = 25
	CapIRQFD              Cap = 32
	CapIOEventFD          Cap = 36
	CapSetIdentityMapAddr Cap = 37
	CapAdjustClock        Cap = 39
	CapMaxVCPUs           Cap = 66
	CapTSCDeadlineTimer   Cap = 72
	CapKVMClockCtrl       Cap = 76
	CapSignalMSI          Cap = 77
	CapEnableCapVM        Cap = 98
	CapSplitIRQChip       Cap = 121
	CapImmediateExit      Cap = 136
	CapXSave2             Cap = 208
	CapPMUCapability      Cap = 212
	CapPreFaultMemory     Cap = 236
)

// PMUCapDisable is the argument of CapPMUCapability that gives the guest no
// performance counters (KVM_PMU_CAP_DISABLE).
const PMUCapDisable = 1 << 0

// ExitReason says why KVM_RUN returned.
type ExitReason uint32

// Exit reasons (KVM_EXIT_*).
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitHypercall     ExitReason = 3
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitIRQWindowOpen ExitReason = 7
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitInternalError ExitReason = 17
	ExitSystemEvent   ExitReason = 24
	ExitIOAPICEOI     ExitReason = 26
	ExitMemoryFault   ExitReason = 39
)

// Values of the fields of the exit structures.
const (
	IODirectionIn  = 0 // KVM_EXIT_IO_IN
	IODirectionOut = 1 // KVM_EXIT_IO_OUT

	SystemEventShutdown = 1
	SystemEventReset    = 2
	SystemEventCrash    = 3
)

// Multiprocessing states (KVM_MP_STATE_*).
const (
	MPStateRunnable      = 0
	MPStateUninitialized = 1
)

const (
	ioeventfdFlagDatamatch = 1 << 0
	ioeventfdFlagDeassign  = 1 << 2
	irqfdFlagDeassign      = 1 << 0
	irqRoutingMSI          = 2

	// CPUIDSignificantIndex: the Index of a CPUIDEntry matters.
	CPUIDSignificantIndex = 1 << 0
)
