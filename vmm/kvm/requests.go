package kvm

// RunRequests are the ioctl requests of a machine that runs: all that this
// package is asked for after the machine was built, until it is closed, but for
// CheckpointRequests. The filter of the VM process lets no others pass; what is
// used later belongs here. The most frequent one comes first.
func RunRequests() []uint32 {
	return []uint32{reqRun, reqSetGSIRouting, reqKVMClockCtrl}
}

// CheckpointRequests are those that read the state of the machine.
func CheckpointRequests() []uint32 {
	return []uint32{
		reqGetMPState, reqGetRegs, reqGetSregs, reqGetXSave, reqGetXSave2, reqGetXCRs, reqGetDebugRegs,
		reqGetLAPIC, reqGetTSCKHz, reqGetMSRs, reqGetVCPUEvents, reqGetClock,
	}
}
