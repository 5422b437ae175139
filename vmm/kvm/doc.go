// Package kvm is the Linux KVM API for x86-64 as far as runv uses it: request
// numbers, ABI structures, and handles that own their file descriptors. It
// holds no policy; Documentation/virt/kvm/api.rst of the kernel is the
// reference for every call.
//
// Handles are not safe for concurrent Close. The calls of a VCPU belong to one
// OS thread, with the exception of SetImmediateExit.
package kvm
