// Package cage closes the VM process in before its guest executes the first
// instruction: whoever takes the process over from inside the guest finds the
// share, the sockets it has, and the system calls of a file server.
//
// The layers, in the order in which they are closed; each needs what the next
// one takes away:
//
//	limits        resource limits, no core dumps           Limit
//	descriptors   those of the list, all others replaced   Cage.Descriptors
//	procfs        an instance that shows this process only NewProc
//	root          the share and nothing else               sandbox.Root.Enter
//	dumpable      no ptrace and no core by other processes Cage.Close
//	securebits    user id 0 stands for nothing             Cage.Close
//	Landlock      files of the share, as far as needed     Cage.Close
//	capabilities  those that file ownership needs          Cage.Close
//	seccomp       a list of system calls                   Cage.Close
//
// no_new_privs and the empty bounding set come with the process: see package
// sandbox. docs/threat-model.md has the reasons.
package cage
