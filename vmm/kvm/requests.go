package kvm

// RunRequests are the ioctl requests of a machine that runs: all that this
// package is asked for after the machine was built, until it is closed. The
// filter of the VM process lets no others pass; what is used later belongs here.
// The most frequent one comes first.
func RunRequests() []uint32 {
	return []uint32{
		reqRun, reqSetGSIRouting, reqKVMClockCtrl,
		// What a checkpoint reads.
		reqGetMPState, reqGetRegs, reqGetSregs, reqGetXSave, reqGetXSave2, reqGetXCRs, reqGetDebugRegs,
		reqGetLAPIC, reqGetTSCKHz, reqGetMSRs, reqGetVCPUEvents, reqGetClock,
	}
}
